"""Writing shards: one file of samples at a time, and the index when all are there; see `shards`."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sslsv.data.audio import SAMPLE_RATE, AudioError, Samples
from sslsv.data.recordings import FORMAT, INDEX, METADATA_KEY, Recordings

_AT_ONCE = 60 * SAMPLE_RATE  # samples read at a time: bounds the memory, whatever the length of a recording
_CHECKED_AT_ONCE = 2**24  # bytes


@dataclass(frozen=True)
class Shard:
    """A written file of samples: name, length, checksum, and the length (or error) of each recording."""

    file: str
    num_samples: int
    sha256: str
    recordings: list[tuple[int, str]]  # samples and "", or 0 and why it is unreadable


def write_shard(
    folder: Path,
    number: int,
    recordings: Recordings,
    names: list[str],
    rooms: frozenset[str],
    add_done: Callable[[int], None],
    is_stopped: Event,
) -> Shard:
    """Write recordings, one after the other, to a file that appears when it is complete.

    One that an earlier call wrote is checked and kept. `add_done` is told the number of recordings done.
    Raises InterruptedError soon after `is_stopped` is set.
    """
    file = f"shard-{number:05d}.int16"
    notes = folder / f"shard-{number:05d}.json"
    if notes.exists():
        shard = Shard(**json.loads(notes.read_text()))
        with contextlib.suppress(ValueError):
            check_shard(folder, shard)
            add_done(len(names))
            return shard
    digest, lengths = hashlib.sha256(), list[tuple[int, str]]()
    partial = folder / f"{file}.partial"
    with partial.open("wb") as target:
        for name in names:
            if is_stopped.is_set():
                raise InterruptedError("packing was stopped")
            start, digest_before = target.tell(), digest.copy()
            try:
                for piece in _pieces(recordings, name, is_room=name in rooms):
                    data = piece.astype("<i2", copy=False).tobytes()
                    target.write(data)
                    digest.update(data)
                lengths.append(((target.tell() - start) // 2, ""))
            except AudioError as error:
                target.seek(start)
                target.truncate()
                digest = digest_before
                lengths.append((0, str(error)))
            add_done(1)
        num_samples = target.tell() // 2
    os.replace(partial, folder / file)
    shard = Shard(file, num_samples, digest.hexdigest(), lengths)
    partial.write_text(json.dumps(asdict(shard)))
    os.replace(partial, notes)
    return shard


def check_shard(folder: Path, shard: Shard) -> None:
    """Raise ValueError if a file of samples is not what was written."""
    digest = hashlib.sha256()
    path = folder / shard.file
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while data := file.read(_CHECKED_AT_ONCE):
            digest.update(data)
    if digest.hexdigest() != shard.sha256:
        raise ValueError(
            f"{path} is damaged: its checksum is not that of the index. Delete {folder}, pack again."
        )


def write_index(folder: Path, parts: list[list[str]], shards: list[Shard], source: str) -> None:
    """Write the index of shards that hold the recordings named in `parts`; the folder is complete then."""
    columns: dict[str, list[object]] = {
        name: [] for name in ("name", "shard", "first_sample", "num_samples", "error")
    }
    for number, (names, shard) in enumerate(zip(parts, shards, strict=True)):
        lengths = np.array([length for length, _ in shard.recordings], dtype=np.int64)
        columns["name"] += map(os.fsencode, names)
        columns["shard"] += [number] * len(names)
        columns["first_sample"] += (np.cumsum(lengths) - lengths).tolist()
        columns["num_samples"] += lengths.tolist()
        columns["error"] += [why for _, why in shard.recordings]
    types = (pa.binary(), pa.int32(), pa.int64(), pa.int64(), pa.string())
    schema = pa.schema(list(zip(columns, types, strict=True)))
    facts = {
        "format": FORMAT,
        "sample_rate": SAMPLE_RATE,
        "shards": [{k: v for k, v in asdict(shard).items() if k != "recordings"} for shard in shards],
        "source": source,
    }
    table = pa.table(columns, schema=schema.with_metadata({METADATA_KEY: json.dumps(facts)}))
    partial = folder / f"{INDEX}.partial"
    parquet.write_table(table, partial, compression="zstd")
    os.replace(partial, folder / INDEX)


def _pieces(recordings: Recordings, name: str, *, is_room: bool) -> Iterator[Samples]:
    with recordings.open(name) as recording:
        if is_room:
            yield recording.read_rir()
            return
        for start in range(0, recording.num_samples, _AT_ONCE):
            yield recording.read_int16(start, min(_AT_ONCE, recording.num_samples - start))
