"""Read every file of a folder or list and report bad files: unreadable, short, silent, clipped, doubled, or
cut off (before the end of a segment in the list).

The same command continues after an interruption; later it reads only new, changed and unreadable files.  It
measures the samples that training gets: 16 kHz, mono.  The report, files.parquet, has a row for each file,
whose column `fault` says what is wrong.  Noises and rooms (musan, RIRS_NOISES ...) only have to be readable.
A missing end is detected in WAV, FLAC, SPH, mp3 with its length in the header, m4a, mp4, webm and wma; other
truncated files, such as AIFF and Ogg, are read as shorter recordings.

Exit status: 0 all files are good, 1 there are bad files, 2 the check could not be made.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from sslsv.data.audio import SAMPLE_RATE, AudioError, open_audio
from sslsv.data.lists import find_recordings
from sslsv.data.recordings import INDEX, Packed, open_recordings, split_segment, stamp
from sslsv.data.section import NO_SPEECH
from sslsv.prepare_data.convert import map_files
from sslsv.prepare_data.disk import progress, write_whole

SILENCE_DB = -60.0  # a frame below this power is silent; full scale is 0 dB
_FRAME = SAMPLE_RATE // 50  # 20 ms
_BLOCK = 60 * SAMPLE_RATE  # samples read at a time, to bound the memory; a multiple of the frame
_ROUNDED_SECONDS = 0.1  # tolerance for rounded ends of segments in lists
_NUM_EXAMPLES = 5  # number of bad files printed per kind

# `error` says why a file can't be read; the columns after it are then null. `sample_rate` is the file's own.
# The shares and the digest (of 16-bit samples) are measured at 16 kHz, mono.
SCHEMA = pa.schema(
    {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "error": pa.string()}
    | {"seconds": pa.float64(), "sample_rate": pa.int64(), "silent_share": pa.float64()}
    | {"clipped_share": pa.float64(), "digest": pa.string()}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data check`."""
    add = parser.add_argument
    add("target", metavar="DIR_OR_LIST", help="a folder, or any list of recordings or trials")
    add("--root", help="data.root, to which the paths in a list are relative (default: its folder)")
    add("--report", type=Path, help="folder for the report (default: checks/NAME)")
    add("--cpus", type=int, metavar="N", help="number of processes (default: one per CPU)")
    add("--min-seconds", type=float, default=1.0, help="length of the shortest good recording (%(default)s)")
    add("--max-silent-share", type=float, default=0.95, help="largest share below -60 dB (%(default)s)")
    add("--max-clipped-share", type=float, default=0.01, help="largest share at full scale (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Check the files, write files.parquet, print the bad files; return 1 if there are any, else 0."""
    target = options.target
    root = os.path.abspath(options.root or os.path.dirname(os.path.abspath(target)))
    for location in (target, root):
        if isinstance(open_recordings(location), Packed):
            raise ValueError(
                f"{location} is packed, which leaves no files to check: check before packing; `error` in "
                f"{location}/{INDEX} says what was unreadable then."
            )
    rows, notes = find_recordings(target, root)
    for note in notes:
        print(f"note: {note}")
    ends: dict[str, float] = {}  # file -> end of its last segment in seconds, 0 without segments
    for _, path in rows:
        file, times = split_segment(os.path.join(root, path))
        file = os.path.normpath(file)
        ends[file] = max(ends.get(file, 0.0), (times[1] or times[0]) if times else 0.0)
    del rows  # 200 MB for a list of VoxCeleb2's size
    files = list(ends)
    report = options.report or Path("checks", os.path.basename(os.path.abspath(target)))
    measured = measure(files, report / "measurements.jsonl", options.cpus)
    seconds = measured["seconds"].drop_null().to_numpy()
    print(f"{len(measured)} files, {seconds.sum() / 3600:.3g} hours of audio")
    if len(seconds):
        print(f"seconds: {seconds.min():.2f} to {seconds.max():.2f}, median {np.median(seconds):.2f}")
    kinds = np.full(len(measured), None, dtype=object)
    for kind, faults in find_faults(measured, ends, root, options).items():
        kinds[list(faults)] = kind
        if faults:
            print(f"{len(faults)} {kind}:", *list(faults.values())[:_NUM_EXAMPLES], sep="\n  ")
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(measured.append_column("fault", pa.array(kinds, pa.string())), sink)
    write_whole(report / "files.parquet", sink.getvalue())
    num_bad = np.count_nonzero(kinds)
    print(f"{num_bad} bad files; the report: {report}/files.parquet")
    return int(num_bad > 0)


def measure(files: list[str], record: Path, cpus: int | None = None) -> pa.Table:
    """Return a table of SCHEMA with a row for each of `files` (absolute paths), in their order.

    `record` gets a JSON line for each file that is read, and the next run continues from it. Unreadable files
    are tried again every time, because the disk may have caused the error.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    todo, measured = _load_record(files, record)
    if not todo:
        return measured
    del measured
    with progress("reading", len(files), done=len(files) - len(todo)) as bar, record.open("a") as lines:
        for i, row in map_files(inspect, [files[i] for i in todo], cpus):
            reason = "ended the process that read it: its decoder crashes, or there is too little memory"
            path = files[todo[i]]
            lines.write(json.dumps(row or {**facts_of(path), "error": f"{path} {reason}"}) + "\n")
            lines.flush()
            bar.update()
    return _load_record(files, record)[1]


def _load_record(files: list[str], record: Path) -> tuple[list[int], pa.Table]:
    """Return the indices of the files to read, and the newest measurements of all files in the record."""
    content = record.read_bytes() if record.exists() else b""
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(record, len(complete))  # the process was killed within the last line
    parse = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    source = pa.BufferReader(complete)
    try:
        rows = pa.json.read_json(source, parse_options=parse) if complete else SCHEMA.empty_table()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{record} is damaged ({error}): delete it, and all files are read anew.") from error
    del content, complete, source  # these take as much memory as all that follows
    newest = {path: i for i, path in enumerate(rows["path"].to_pylist())}
    rows = rows.take(pa.array([newest.get(path) for path in files], pa.int64()))
    is_old = rows["digest"].is_null().to_numpy()
    stamps = np.fromiter(map(stamp, files), np.dtype((np.int64, 2)), len(files))
    for i, now in enumerate(stamps.T, start=1):
        is_old |= rows[i].to_numpy() != now
        rows = rows.set_column(i, SCHEMA.field(i), pa.array(now))
    rows = rows.set_column(0, SCHEMA.field(0), pa.array(files, pa.string()))
    return np.flatnonzero(is_old).tolist(), rows


def facts_of(path: str) -> dict[str, Any]:
    """Return path, size and modification time of a file, as in the record."""
    size, mtime_ns = stamp(path)
    return {"path": path, "size": size, "mtime_ns": mtime_ns}


def inspect(path: str) -> dict[str, Any]:
    """Read and measure a recording; return the columns of SCHEMA that apply to it."""
    silent = clipped = 0
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_audio(path) as file:
            for start in range(0, file.num_samples, _BLOCK):
                samples = file.read_int16(start, min(_BLOCK, file.num_samples - start))
                clipped += int(np.count_nonzero((samples >= 32767) | (samples <= -32767)))
                starts = np.arange(0, len(samples), _FRAME)
                lengths = np.diff(starts, append=len(samples))
                means, powers = (np.add.reduceat((samples / 32768) ** n, starts) / lengths for n in (1, 2))
                is_silent = powers - means**2 < 10.0 ** (SILENCE_DB / 10)  # a constant offset is silent too
                silent += int(lengths[is_silent].sum())
                digest.update(samples.astype("<i2").tobytes())
    except AudioError as error:
        return {**facts_of(path), "error": str(error)}
    shares = {"silent_share": silent / file.num_samples, "clipped_share": clipped / file.num_samples}
    timing = {"seconds": file.num_samples / SAMPLE_RATE, "sample_rate": file.file_rate}
    return {**facts_of(path), **timing, **shares, "digest": digest.hexdigest()}


def find_faults(
    measured: pa.Table, ends: dict[str, float], root: str, options: argparse.Namespace
) -> dict[str, dict[int, str]]:
    """Return the faults of each kind as {row: message}, with the most serious kind last.

    `ends` maps the path of each row to the end of its last segment in seconds, 0 without segments. The first
    of several recordings with the same samples is no fault. Noises and rirs only have to be readable.
    """
    split_paths = (os.path.relpath(path, root).split(os.sep) for path in ends)
    is_speech = np.array([NO_SPEECH.isdisjoint(folders) for folders in split_paths])
    paths, digests = list(ends), measured["digest"].to_pylist()
    faults: dict[str, dict[int, str]] = {}
    for kind, column, sign, limit in (
        ("short", "seconds", -1, options.min_seconds),
        ("clipped", "clipped_share", 1, options.max_clipped_share),
        ("silent", "silent_share", 1, options.max_silent_share),
    ):
        values = measured[column].to_numpy()
        rows = np.flatnonzero((sign * values > sign * limit) & is_speech).tolist()
        faults[kind] = {i: f"{paths[i]}: {column} {values[i]}" for i in rows}
    first_row: dict[str, int] = {}
    faults["doubled"] = {
        i: f"{paths[i]}: the same samples as {paths[first_row[digest]]}"
        for i, digest in enumerate(digests)
        if digest is not None and is_speech[i] and first_row.setdefault(digest, i) != i
    }
    seconds = measured["seconds"].to_numpy()
    faults["cut off"] = {
        i: f"{path}: ends after {seconds[i]:.2f} s, its last segment at {end:.2f} s"
        for i, (path, end) in enumerate(ends.items())
        if end > seconds[i] + _ROUNDED_SECONDS
    }
    errors = measured["error"].to_pylist()
    faults["unreadable"] = {i: errors[i] for i, digest in enumerate(digests) if digest is None}
    return faults
