"""Pack a corpus with its noises, rooms and lists into a few large files.

Training on the packed folder (`data.root=PACKED`) gets the same samples without opening a million files.

The pack holds the recordings in the lists, and the noises and rooms in musan_split and simulated_rirs, or in
the folders that their archives unpack to.  Noises in other folders are left out.  An unreadable recording is
listed in the index with the reason.  The same command continues after an interruption.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sslsv.data.audio import SAMPLE_RATE, AudioError, Samples
from sslsv.data.bank import find_noises
from sslsv.data.kaldi import list_files
from sslsv.data.list_text import list_location
from sslsv.data.lists import find_lists, find_recordings
from sslsv.data.recordings import FORMAT, INDEX, METADATA_KEY, Packed, Recordings, split_segment, stamp
from sslsv.data.section import BANK_FOLDERS, ORIGINAL_FOLDERS, RIR_FOLDER
from sslsv.prepare_data.disk import check_space, progress, readable_bytes, sample_bytes, write_whole
from sslsv.runs.environment import usable_cpus

Lengths = list[tuple[int, str]]  # (length, error) of each recording of a shard; see `_write_shard`

_UNFINISHED = "packing.json"  # marks an unfinished folder, and says what is packed
_AT_ONCE = 32  # recordings held in memory; some corpora have hours of audio in one recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data pack`."""
    add = parser.add_argument
    add("root", type=Path, metavar="DATA_ROOT", help="folder of the lists and recordings")
    lists = "lists in DATA_ROOT (default: *train_list, *trials*, *_test_*, also with .txt, .csv ...)"
    add("--lists", nargs="+", metavar="LIST", help=lists)
    add("--out", type=Path, help="packed folder (default: DATA_ROOT/packed)")
    add("--shard-mb", type=int, default=1024, help="approximate size of a file (%(default)s)")
    add("--jobs", type=int, default=usable_cpus(), help="recordings read at the same time (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Pack, unless done already; return 1 if some recordings are unreadable, else 0."""
    out = options.out or options.root / "packed"
    is_new = pack(options.root, out, options.lists, shard_mb=options.shard_mb, jobs=options.jobs)
    packed = Packed(os.path.abspath(out))
    noises, rirs = (len(find_noises(packed, name)[1]) for name in BANK_FOLDERS)
    size = readable_bytes(2 * sum(shard["num_samples"] for shard in packed.facts["shards"]))
    print(
        f"{out}: {len(packed)} recordings ({size}), {noises} noises and {rirs} rooms among them: "
        f"{'packed' if is_new else 'packed already'}.\nTrain with data.root={out}"
    )
    if bad := packed.errors:
        first = next(iter(bad.values()))
        print(f"{len(bad)} are unreadable: {first} ...; see `error` in {out / INDEX}", file=sys.stderr)
    return int(bool(bad))


def pack(
    root: Path, out: Path, lists: list[str] | None = None, *, shard_mb: int = 1024, jobs: int | None = None
) -> bool:
    """Pack `root` into `out`; return False if it was packed already.

    Raises FileExistsError if `out` holds anything else, ValueError if there is nothing to pack.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one that holds the lists.")
    recordings = Recordings(root)
    lists = find_lists(root) if lists is None else lists
    chosen = _names_in(root, lists)
    for folder in BANK_FOLDERS:
        if not (sounds := find_noises(recordings, folder)[1]):
            print(f"{root / folder} holds no audio: packed without it.")
        chosen.update(sounds)
    names = sorted(chosen, key=os.fsencode)
    print(f"Lists: {', '.join(lists)}")
    texts = [os.path.relpath(file, root) for name in lists for file in list_files(list_location(root, name))]
    stamps = {name: _stamp(recordings.location(name)) for name in [*names, *texts]}
    source = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    if (out / INDEX).exists():
        facts = Packed(os.path.abspath(out)).facts
        if facts["source"] != source:
            raise FileExistsError(
                f"{out} is a pack of other or older lists or recordings: choose another --out, or delete it."
            )
        return False
    written_bytes = sum(file.stat().st_size for file in out.glob("shard-*.int16"))
    needed_bytes = sample_bytes({name: stamps[name][0] for name in names}, recordings.open)
    check_space(out, needed_bytes - written_bytes, f"Packing {root}")
    _begin(out, {"source": source, "shard_mb": shard_mb})
    parts, part_bytes = [list[str]()], 0
    for name in names:
        if part_bytes >= shard_mb * 2**20:
            parts.append([])
            part_bytes = 0
        parts[-1].append(name)
        part_bytes += stamps[name][0]
    with progress("packing", len(names)) as bar, ThreadPoolExecutor(jobs) as pool:
        files = [out / f"shard-{i:05d}.int16" for i in range(len(parts))]
        work = functools.partial(_read, recordings)
        shards = [_write_shard(file, part, pool, work, bar) for file, part in zip(files, parts, strict=True)]
    for name in texts:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, out / name)
    _write_index(out, parts, shards, source)
    for leftover in (*out.glob("shard-*.json"), out / _UNFINISHED):
        leftover.unlink()
    return True


def _stamp(location: str) -> tuple[int, int]:
    # The size of a segment is limited by its duration, because many segments may share one file.
    file, times = split_segment(location)
    size, mtime_ns = stamp(file)
    if times and times[1]:
        size = min(size, int(2 * SAMPLE_RATE * (times[1] - times[0])))
    return size, mtime_ns


def _names_in(root: Path, lists: list[str]) -> set[str]:
    if not lists:
        raise ValueError(f"{root} holds no list of recordings: name some with --lists, below {root}.")
    names: set[str] = set()
    for name in lists:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"The list {name} does not lie below {root}: only lists below it are copied.")
        rows, _ = find_recordings(os.path.join(root, name), root)
        names.update(path for _, path in rows)
    return names


def _begin(out: Path, job: dict[str, Any]) -> None:
    marker = out / _UNFINISHED
    if not out.exists() or not any(out.iterdir()):
        write_whole(marker, json.dumps(job).encode())
    if not marker.exists() or json.loads(marker.read_text()) != job:
        raise FileExistsError(
            f"{out} holds something else, or an unfinished pack of other recordings or with another "
            "--shard-mb: choose another --out, or delete it."
        )


def _write_shard(
    file: Path, names: list[str], pool: Executor, read: Callable[[str], tuple[Samples, str]], bar: Any
) -> Lengths:
    """Write recordings to a shard, which appears once it is complete, unless an earlier call wrote it.

    Returns (number of samples, "") for each recording, or (0, why it is unreadable).
    """
    lengths_file, partial = file.with_suffix(".json"), file.with_suffix(".partial")
    if lengths_file.exists() and file.exists():
        earlier: Lengths = json.loads(lengths_file.read_text())
        if file.stat().st_size == 2 * sum(num_samples for num_samples, _ in earlier):
            bar.update(len(names))
            return earlier
    lengths: Lengths = []
    with partial.open("wb") as target:
        for start in range(0, len(names), _AT_ONCE):
            for samples, error in pool.map(read, names[start : start + _AT_ONCE]):
                target.write(samples.astype("<i2", copy=False).tobytes())
                lengths.append((len(samples), error))
                bar.update()
    partial.replace(file)
    write_whole(lengths_file, json.dumps(lengths).encode())
    return lengths


def _read(recordings: Recordings, name: str) -> tuple[Samples, str]:
    """Return (samples, "") of a recording, or (no samples, why it is unreadable)."""
    try:
        with recordings.open(name) as recording:
            if name.startswith((f"{RIR_FOLDER}/", f"{ORIGINAL_FOLDERS[RIR_FOLDER]}/")):
                return recording.read_rir(), ""
            return recording.read_int16(0, recording.num_samples), ""
    except AudioError as error:
        return np.zeros(0, dtype=np.int16), str(error)


def _write_index(out: Path, parts: list[list[str]], shards: list[Lengths], source: str) -> None:
    """Write the index of shards, whose recordings are named in `parts`; this completes the folder."""
    lengths = [np.array([length for length, _ in shard], dtype=np.int64) for shard in shards]
    columns = {
        "name": pa.array([os.fsencode(name) for part in parts for name in part], pa.binary()),
        "shard": pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])),
        "first_sample": pa.array(np.concatenate([np.cumsum(each) - each for each in lengths])),
        "num_samples": pa.array(np.concatenate(lengths)),
        "error": pa.array([error for shard in shards for _, error in shard], pa.string()),
    }
    files = [{"file": f"shard-{i:05d}.int16", "num_samples": int(n.sum())} for i, n in enumerate(lengths)]
    facts = {"format": FORMAT, "sample_rate": SAMPLE_RATE, "shards": files, "source": source}
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(facts)})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    write_whole(out / INDEX, sink.getvalue())
