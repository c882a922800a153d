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
import time
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
    started = time.monotonic()
    folder, name = posixpath.split(options.out)
    if posixpath.splitext(name)[1] not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; its name must end in .npz or .parquet")
    rows = find_recordings(options.path, options.root)
    encoder = load_encoder(options)
    from sslsv.evaluation.embedding import embedding_by
    from sslsv.runs.folder import RunFolder

    with embedding_by(encoder, len(rows), options.workers, options.device) as embed:
        embeddings, bad = embed([path for _, path in rows], options.root)
    kept = [i for i in range(len(rows)) if i not in bad]
    if not kept:
        raise ValueError(f"none of the {len(rows)} recordings can be read; the first: {bad[0]}")
    content = encoded(name, [rows[i] for i in kept], embeddings[kept])
    RunFolder.at(folder or ".").write(name, content)
    for sentence in bad.values():
        print(f"skipped: {sentence}", file=sys.stderr)
    size = f"{embeddings.shape[1]} dimensions, {len(content) / 1e6:.1f} MB"
    took = f"{time.monotonic() - started:.1f} s{f'; {len(bad):,} skipped' if bad else ''}"
    print(f"wrote {options.out}: {len(kept):,} embeddings of {size}, in {took}")
    return 1 if bad else 0


def find_recordings(path: str, root: str) -> list[tuple[str, str]]:
    """Return (speaker, or "" where unknown; path) of a file, the files of a folder or the lines of a list.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    from sslsv.data.audio import AUDIO_SUFFIXES, find_audio_files
    from sslsv.data.lists import list_lines, why_unlistable
    from sslsv.runs.folder import absolute

    is_audio = os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES
    if os.path.isdir(path) or (is_audio and os.path.isfile(path)):
        files = find_audio_files(path) if os.path.isdir(path) else [path]
        rows = [("", os.path.abspath(file)) for file in files]
    else:
        rows = []
        for number, line in list_lines(root, absolute(path)):
            *speaker, name = line.strip().split(maxsplit=1) or [""]
            if why := name and why_unlistable(name):
                raise ValueError(f"{path}, line {number}: the path {name[:120]!r} {why}")
            rows += [("".join(speaker), name)] if name else []
    if not rows:
        raise ValueError(f"{path} holds no recording: no audio file, or no `speaker path` or `path` line")
    return rows


def encoded(name: str, rows: list[tuple[str, str]], embeddings: Any) -> bytes:
    """Return the content of a file of that name with speakers, paths and embeddings (N, D)."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    buffer, (speakers, paths) = io.BytesIO(), zip(*rows, strict=True)
    if name.endswith(".npz"):
        np.savez(buffer, paths=np.array(paths), speakers=np.array(speakers), embeddings=embeddings)
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
        parquet.write_table(pa.table({"path": paths, "speaker": speakers, "embedding": column}), buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
