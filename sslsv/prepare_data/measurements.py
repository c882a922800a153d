"""Measurements of many recordings, kept as they are made: a second run measures what is new or changed."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
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

_MEASURED = pa.schema([field for field in SCHEMA if field.name not in ("path", "size", "mtime_ns")])


def measure(files: Sequence[str], record: Path, num_processes: int) -> pa.Table:
    """Return a table of SCHEMA with a row for each of `files` (absolute paths, each once), in their order.

    `record` gets a JSON line for each file that was read; it may be read while it grows, and is what the next
    run goes on from. Unreadable files are tried again every time: the trouble may have been the disk's.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(record)
    wanted = _Wanted(files)
    known = wanted.find(record)
    todo = np.flatnonzero(known["digest"].is_null().to_numpy(zero_copy_only=False))
    if not len(todo):
        return known
    del known  # of a million files some 300 MB, which are read again
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
    return wanted.find(record)


class _Wanted:
    """The files to measure as they are now, to be found in a record that is too long to be held twice."""

    def __init__(self, files: Sequence[str]) -> None:
        self._places = {printable(path): place for place, path in enumerate(files)}
        stamps = np.fromiter((stamp(path) for path in files), dtype=(np.int64, 2), count=len(files))
        self._sizes, self._times = stamps[:, 0].copy(), stamps[:, 1].copy()

    def find(self, record: Path) -> pa.Table:
        """Measurements of the files in their order, the newest of each; empty where there is none."""
        kept = [_MEASURED.empty_table()]
        newest = np.full(len(self._places), -1, dtype=np.int64)  # row of `kept`
        num_kept = 0
        for batch in _batches(record):
            places = np.array(
                [self._places.get(path, -1) for path in batch["path"].to_pylist()], dtype=np.int64
            )
            is_current = places >= 0
            is_current &= batch["size"].to_numpy(zero_copy_only=False) == self._sizes[places]
            is_current &= batch["mtime_ns"].to_numpy(zero_copy_only=False) == self._times[places]
            kept.append(pa.table(batch.select(_MEASURED.names).filter(pa.array(is_current))))
            # Where one place stands twice, the later row is the one that stays.
            newest[places[is_current]] = np.arange(num_kept, num_kept + len(kept[-1]))
            num_kept += len(kept[-1])
        measured = pa.concat_tables(kept)
        kept.clear()
        rows = pa.array(newest, mask=newest < 0)
        columns = [pa.array(list(self._places), pa.string()), self._sizes, self._times]
        for name in _MEASURED.names:  # one at a time, for each is there twice meanwhile
            columns.append(measured[name].take(rows))
            measured = measured.drop_columns(name)
        pa.default_memory_pool().release_unused()
        return pa.table(columns, schema=SCHEMA)


def _batches(record: Path) -> Iterator[pa.RecordBatch]:
    if not record.exists() or record.stat().st_size == 0:
        return
    parse = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    try:
        with pa.json.open_json(record, parse_options=parse) as batches:
            yield from batches
    except pa.ArrowInvalid as error:
        raise ValueError(f"{record} is damaged ({error}): delete it, and all files are read anew.") from error


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
