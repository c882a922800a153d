"""Embed recordings: `sslsv embed RUN PATH --out x.npz`.

PATH is an audio file, a folder (all audio files below it), a Kaldi folder, or a list, which may be a URI. A
list has `speaker path` or `path` lines, or trials, or another form of docs/data.md.

Exit codes: 0 done, 1 some recordings can't be read (they are named, the rest is written), 2 the request can't
be met.
"""

import argparse
import io
import os
import posixpath
import sys
import tempfile
import time
from typing import Any

from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("embed", "Embed recordings.", has_workers=True)
    add = parser.add_argument
    add("path", help="an audio file, a folder, or a list of `speaker path` or `path` lines")
    add("--out", required=True, help="x.npz or x.parquet, may be a URI; gets paths, speakers, embeddings")
    add("--root", default=".", help="folder that paths in a list are relative to (default: current folder)")
    return run_command(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Embed the recordings and write the file; returns the exit code, raises ValueError or OSError."""
    started = time.monotonic()
    folder, name = posixpath.split(options.out)
    if posixpath.splitext(name)[1] not in (".npz", ".parquet"):
        raise ValueError(f"--out is {options.out}; its name must end in .npz or .parquet")
    from sslsv.data.lists import find_recordings
    from sslsv.runs.folder import RunFolder

    rows, notes = find_recordings(options.path, options.root)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    target = RunFolder.at(folder or ".")
    try:  # checked before embedding, which may take hours
        if target.is_local:
            os.makedirs(target.root, exist_ok=True)
            tempfile.TemporaryFile(dir=target.root).close()
    except OSError as error:
        reason = f"no file can be written to its folder ({error.strerror})"
        raise ValueError(f"--out is {options.out}; {reason}: choose another folder") from error
    encoder = load_encoder(options)
    from sslsv.evaluation.embedding import embedding_by

    with embedding_by(encoder, len(rows), options.workers, options.device) as embed:
        embeddings, bad = embed([path for _, path in rows], options.root)
    readable = [i for i in range(len(rows)) if i not in bad]
    if not readable:
        raise ValueError(f"none of the {len(rows)} recordings can be read; the first: {bad[0]}")
    content = encoded(name, [rows[i] for i in readable], embeddings[readable])
    target.write(name, content)
    for sentence in bad.values():
        print(f"skipped: {sentence}", file=sys.stderr)
    size = f"{embeddings.shape[1]} dimensions, {len(content) / 1e6:.1f} MB"
    elapsed, skipped = time.monotonic() - started, f"; {len(bad):,} skipped" if bad else ""
    print(f"wrote {options.out}: {len(readable):,} embeddings of {size}, in {elapsed:.1f} s{skipped}")
    return 1 if bad else 0


def encoded(name: str, rows: list[tuple[str, str]], embeddings: Any) -> bytes:
    """Return the file content for (speaker, path) rows and embeddings (N, D), in the format of `name`."""
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
