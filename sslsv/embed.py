"""Embed recordings: `python -m sslsv.embed RUN PATH --out x.npz`.

PATH is an audio file, a folder (every audio file below it), or a list (also a URI): `speaker path` or `path`
per line.

Exit codes: 0 done, 1 some recordings can't be read (named; the others are written), 2 the request can't be
met.
"""

import argparse
import contextlib
import os
import posixpath
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from sslsv.data.audio import AUDIO_SUFFIXES, find_audio
from sslsv.data.lists import list_lines, why_unlistable
from sslsv.evaluation.embeddings import Embed, Floats, embed_files, uses_processes
from sslsv.evaluation.encoder_options import (
    add_computing_options,
    add_process_option,
    add_weights_options,
    load_encoder,
)
from sslsv.runs.folder import absolute, is_uri, open_filesystem


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        bad = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for sentence in bad:
        print(f"skipped: {sentence}", file=sys.stderr)
    print(options.out)
    return 1 if bad else 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m sslsv.embed", description="Embed recordings.")
    add = parser.add_argument
    add_weights_options(parser)
    add("path", help="an audio file, a folder, or a list of `speaker path` or `path` lines")
    add(
        "--out",
        required=True,
        help="x.npz or x.parquet, also a URI: paths, speakers, embeddings",
    )
    add("--root", default=".", help="folder that the paths in a list are relative to (default: this one)")
    add_computing_options(parser)
    add_process_option(parser)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[str]:
    """Embed and write; returns why some recordings can't be read.

    Raises ValueError or OSError with a sentence.
    """
    if suffix_of(options.out) not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; its name must end in .npz or .parquet")
    paths, speakers = find_recordings(options.path, options.root)
    encoder = load_encoder(
        options, options.run, options.checkpoint, device=options.device, precision=options.precision
    )
    with contextlib.ExitStack() as stack:
        embed: Embed = lambda files, root: embed_files(encoder, files, root)  # noqa: E731
        if uses_processes(len(paths), options.workers, options.device):
            from sslsv.evaluation.embedding_workers import workers  # Ray takes seconds to import

            embed = stack.enter_context(workers(encoder, None, options.workers))
        embeddings, bad = embed(paths, options.root)
    kept = [i for i in range(len(paths)) if i not in bad]
    if not kept:
        raise ValueError(f"none of the {len(paths)} recordings can be read; the first: {bad[0]}")
    write(options.out, [paths[i] for i in kept], [speakers[i] for i in kept], embeddings[kept])
    return list(bad.values())


def find_recordings(path: str, root: str) -> tuple[list[str], list[str]]:
    """Paths and speakers (empty where unknown) of a file, a folder or a list.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    if os.path.isdir(path):
        found = [os.path.abspath(file) for file in find_audio(path)]
        if not found:
            raise ValueError(f"no audio file is below {path}")
        return found, [""] * len(found)
    if not is_uri(path):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is no file and no folder")
        if suffix_of(path).lower() in AUDIO_SUFFIXES:
            return [os.path.abspath(path)], [""]
    form = "speaker path` or `path"
    paths, speakers = [], []
    for number, line in list_lines(root, absolute(path)):
        fields = line.split(maxsplit=1)
        if fields:
            name = fields[-1].rstrip()
            if why := why_unlistable(name):
                raise ValueError(
                    f"{path} is no list of `{form}` lines: line {number}: the path {name[:120]!r} {why}"
                )
            paths.append(name)
            speakers.append(fields[0] if len(fields) == 2 else "")
    if not paths:
        raise ValueError(f"{path} is no list of `{form}` lines: it is empty")
    return paths, speakers


def suffix_of(place: str) -> str:
    """The suffix of a path, or of a URI that may end in options."""
    return posixpath.splitext(place.partition("?")[0] if is_uri(place) else place)[1]


def write(out: str, paths: list[str], speakers: list[str], embeddings: Floats) -> None:
    """Write a whole file or object, or none."""
    filesystem, place = open_filesystem(absolute(out))
    is_local = not is_uri(absolute(out))
    # An object appears when its upload is complete; a file, when it gets its name.
    target = f"{place}.{os.getpid()}.part" if is_local else place
    if is_local:
        os.makedirs(os.path.dirname(place), exist_ok=True)
    try:
        with filesystem.open_output_stream(target) as file:
            if suffix_of(out) == ".npz":
                np.savez(file, paths=np.array(paths), speakers=np.array(speakers), embeddings=embeddings)
            else:
                rows = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
                table = pa.table({"path": paths, "speaker": speakers, "embedding": rows})
                pyarrow.parquet.write_table(table, file)
        if is_local:
            os.replace(target, place)
    finally:
        if is_local and os.path.exists(target):
            os.remove(target)


if __name__ == "__main__":
    sys.exit(main())
