"""Embed recordings: `python -m sslsv.embed RUN PATH --out x.npz`.

PATH is an audio file, a folder (every audio file below it), or a list (also a URI): `speaker path` or `path`
per line.

Exit codes: 0 done, 1 some recordings can't be read (named; the others are written), 2 the request can't be
met.
"""

import argparse
import io
import os
import posixpath
import sys
from typing import Any

from sslsv.evaluation.arguments import add_workers, encoder_parser, load_encoder

FORM = "speaker path` or `path"  # of the lines of a list


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("embed", "Embed recordings.")
    add = parser.add_argument
    add("path", help=f"an audio file, a folder, or a list of `{FORM}` lines")
    add("--out", required=True, help="x.npz or x.parquet, also a URI: paths, speakers, embeddings")
    add("--root", default=".", help="folder that the paths in a list are relative to (default: this one)")
    add_workers(parser)
    options = parser.parse_args(arguments)
    try:
        bad = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for sentence in bad:
        print(f"skipped: {sentence}", file=sys.stderr)
    print(options.out)
    return 1 if bad else 0


def run(options: argparse.Namespace) -> list[str]:
    """Embed and write; returns why some recordings can't be read.

    Raises ValueError or OSError with a sentence.
    """
    if suffix_of(options.out) not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; its name must end in .npz or .parquet")
    paths, speakers = find_recordings(options.path, options.root)
    from sslsv.evaluation.embedding import embedding_by
    from sslsv.runs.folder import RunFolder

    encoder = load_encoder(options, options.run, options.checkpoint)
    with embedding_by(encoder, None, len(paths), options.workers, options.device) as embed:
        embeddings, bad = embed(paths, options.root)
    kept = [i for i in range(len(paths)) if i not in bad]
    if not kept:
        raise ValueError(f"none of the {len(paths)} recordings can be read; the first: {bad[0]}")
    rows = [paths[i] for i in kept], [speakers[i] for i in kept], embeddings[kept]
    path, mark, settings = options.out.partition("?") if "://" in options.out else (options.out, "", "")
    folder, name = posixpath.split(path)
    RunFolder.at((folder or ".") + mark + settings).write(name, encoded(suffix_of(name), *rows))
    return list(bad.values())


def find_recordings(path: str, root: str) -> tuple[list[str], list[str]]:
    """Return paths and speakers (empty where unknown) of a file, a folder or a list.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    from sslsv.data.audio import AUDIO_SUFFIXES, find_audio_files
    from sslsv.data.lists import list_lines, why_unlistable
    from sslsv.runs.folder import absolute, is_uri

    if os.path.isdir(path):
        found = [os.path.abspath(file) for file in find_audio_files(path)]
        if not found:
            raise ValueError(f"no audio file is below {path}")
        return found, [""] * len(found)
    if not is_uri(path) and not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is no file and no folder")
    if not is_uri(path) and suffix_of(path).lower() in AUDIO_SUFFIXES:
        return [os.path.abspath(path)], [""]
    paths, speakers = [], []
    for number, line in list_lines(root, absolute(path)):
        *speaker, name = line.strip().split(maxsplit=1) or [""]
        if why := name and why_unlistable(name):
            raise ValueError(
                f"{path} is no list of `{FORM}` lines: line {number}: the path {name[:120]!r} {why}"
            )
        if name:
            paths.append(name)
            speakers.append("".join(speaker))
    if not paths:
        raise ValueError(f"{path} is no list of `{FORM}` lines: it is empty")
    return paths, speakers


def suffix_of(place: str) -> str:
    """Return the suffix of a path, or of a URI that may end in options."""
    return posixpath.splitext(place.partition("?")[0] if "://" in place else place)[1]


def encoded(suffix: str, paths: list[str], speakers: list[str], embeddings: Any) -> bytes:
    """Return the content of a file with paths, speakers and embeddings (N, D)."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, paths=np.array(paths), speakers=np.array(speakers), embeddings=embeddings)
    else:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
        parquet.write_table(pa.table({"path": paths, "speaker": speakers, "embedding": rows}), buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
