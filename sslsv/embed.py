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

from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("embed", "Embed recordings.", has_workers=True)
    add = parser.add_argument
    add("path", help="an audio file, a folder, or a list of `speaker path` or `path` lines")
    add("--out", required=True, help="x.npz or x.parquet, also a URI: paths, speakers, embeddings")
    add("--root", default=".", help="folder that the paths in a list are relative to (default: this one)")
    return run_command(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Embed and write; returns the exit code, and raises ValueError or OSError with a sentence."""
    # Options of a URI (`?endpoint_override=...`) belong to its folder.
    path, *uri_options = options.out.partition("?") if "://" in options.out else (options.out,)
    folder, name = posixpath.split(path)
    if posixpath.splitext(name)[1] not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; its name must end in .npz or .parquet")
    paths, speakers = find_recordings(options.path, options.root)
    encoder = load_encoder(options, options.run, options.checkpoint)
    from sslsv.evaluation.embedding import embedding_by
    from sslsv.runs.folder import RunFolder

    with embedding_by(encoder, None, len(paths), options.workers, options.device) as embed:
        embeddings, bad = embed(paths, options.root)
    kept = [i for i in range(len(paths)) if i not in bad]
    if not kept:
        raise ValueError(f"none of the {len(paths)} recordings can be read; the first: {bad[0]}")
    content = encoded(name, [paths[i] for i in kept], [speakers[i] for i in kept], embeddings[kept])
    RunFolder.at((folder or ".") + "".join(uri_options)).write(name, content)
    for sentence in bad.values():
        print(f"skipped: {sentence}", file=sys.stderr)
    print(options.out)
    return 1 if bad else 0


def find_recordings(path: str, root: str) -> tuple[list[str], list[str]]:
    """Return paths and speakers (empty where unknown) of a file, a folder or a list.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    from sslsv.data.audio import AUDIO_SUFFIXES, find_audio_files
    from sslsv.data.lists import list_lines, why_unlistable
    from sslsv.runs.folder import absolute, is_uri

    is_file = os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES
    if os.path.isdir(path) or (is_file and os.path.isfile(path)):
        found = [path] if os.path.isfile(path) else find_audio_files(path)
        if not found:
            raise ValueError(f"no audio file is below {path}")
        return [os.path.abspath(file) for file in found], [""] * len(found)
    if not is_uri(path) and not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is no file and no folder")
    paths, speakers, refused = [], [], f"{path} is no list of `speaker path` or `path` lines"
    for number, line in list_lines(root, absolute(path)):
        *speaker, name = line.strip().split(maxsplit=1)
        if why := why_unlistable(name):
            raise ValueError(f"{refused}: line {number}: the path {name[:120]!r} {why}")
        paths.append(name)
        speakers.append("".join(speaker))
    return paths, speakers


def encoded(name: str, paths: list[str], speakers: list[str], embeddings: Any) -> bytes:
    """Return the content of a file of that name with paths, speakers and embeddings (N, D)."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    if name.endswith(".npz"):
        np.savez(buffer, paths=np.array(paths), speakers=np.array(speakers), embeddings=embeddings)
    else:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
        parquet.write_table(pa.table({"path": paths, "speaker": speakers, "embedding": rows}), buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
