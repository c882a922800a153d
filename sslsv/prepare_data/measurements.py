"""Measurements of many recordings, kept as they are made: a second run measures what is new or changed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from sslsv.prepare_data.inspection import inspect, printable, stamp
from sslsv.prepare_data.parallel import map_files
from sslsv.prepare_data.progress_line import ProgressLine

SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # absolute
        ("size", pa.int64()),  # bytes
        ("mtime_ns", pa.int64()),
        ("error", pa.string()),  # why it can't be read; then all that follows is missing
        ("seconds", pa.float64()),
        ("sample_rate", pa.int64()),  # of the file, Hz; everything below is measured at 16 kHz, mono
        ("channels", pa.int64()),
        ("encoding", pa.string()),
        ("peak_db", pa.float64()),  # of full scale
        ("level_db", pa.float64()),  # root mean square
        ("silent_share", pa.float64()),  # time in frames of 20 ms below SILENCE_DB, a constant offset apart
        ("clipped_share", pa.float64()),  # samples at full scale
        ("dc_offset", pa.float64()),  # mean, full scale is 1
        (
            "digest",
            pa.string(),
        ),  # of the samples at 16 bits: the same in any lossless format
    ]
)

_KEY = ["path", "size", "mtime_ns"]


def measure(files: Sequence[str], record: Path, num_processes: int) -> pa.Table:
    """Return a table of SCHEMA with a row for each of `files` (absolute paths, each once), in their order.

    `record` gets a JSON line for each file that was read; it may be read while it grows, and is what the next
    run goes on from. Unreadable files are tried again every time: the trouble may have been the disk's.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(record)
    wanted = _wanted(files)
    known = _join(wanted, _read(record))
    todo = np.flatnonzero(known["digest"].is_null().to_numpy(zero_copy_only=False))
    if not len(todo):
        return known.select(SCHEMA.names)
    chosen = [files[i] for i in todo.tolist()]
    with (
        ProgressLine("reading", len(files), already_done=len(files) - len(todo)) as line,
        record.open("a", encoding="ascii") as lines,
    ):
        for rows in map_files(inspect, chosen, num_processes):
            for i, row in rows:
                if row is None:
                    row = _row_of_lost(chosen[i])
                lines.write(json.dumps(row) + "\n")
            lines.flush()
            line.add(len(rows))
    return _join(wanted, _read(record)).select(SCHEMA.names)


def _wanted(files: Sequence[str]) -> pa.Table:
    stamps = np.fromiter((stamp(path) for path in files), dtype=(np.int64, 2), count=len(files))
    return pa.table(
        {
            "path": pa.array([printable(path) for path in files], pa.string()),
            "size": stamps[:, 0],
            "mtime_ns": stamps[:, 1],
            "place": np.arange(len(files)),
        }
    )


def _join(wanted: pa.Table, known: pa.Table) -> pa.Table:
    """Measurements of the wanted files in their order, the newest of each; empty where there is none."""
    joined = wanted.join(known, keys=_KEY, join_type="left outer").combine_chunks()
    order = np.lexsort([pc.fill_null(joined["line"], -1).to_numpy(), joined["place"].to_numpy()])
    places = joined["place"].to_numpy()[order]
    is_last = np.append(places[1:] != places[:-1], True) if len(places) else np.zeros(0, dtype=bool)
    return joined.take(order[is_last])


def _read(record: Path) -> pa.Table:
    if not record.exists() or record.stat().st_size == 0:
        table = SCHEMA.empty_table()
    else:
        parse = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
        try:
            table = pa.json.read_json(record, parse_options=parse)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{record} is damaged ({error}): delete it, and all files are read anew."
            ) from error
    return table.append_column("line", pa.array(np.arange(len(table))))


def _row_of_lost(path: str) -> dict[str, object]:
    size, mtime_ns = stamp(path)
    error = f"{path} ended the process that read it: its decoder crashes, or there is too little memory."
    return {"path": printable(path), "size": size, "mtime_ns": mtime_ns, "error": printable(error)}


def _cut_torn_line(record: Path) -> None:
    """Drop the end of a record whose writer was killed within a line."""
    if not record.exists():
        return
    with record.open("rb+") as lines:
        end = lines.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            step = min(end, 4096)
            end -= step
            lines.seek(end)
            tail = lines.read(step) + tail
        lines.truncate(end + tail.rfind(b"\n") + 1)
