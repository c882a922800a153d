"""Pack a corpus into a few large files, with its noises, rooms and lists: training reads it without opening
a million files, and gets the very same samples (`data.root=PACKED`).

The recordings are those of the lists; unreadable ones are packed as such, with the reason.  An interrupted
pack goes on when the command is repeated; on a finished one it checks every byte against its checksum.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from sslsv.data.lists import find_lists, is_trial_list, read_trials, train_rows
from sslsv.data.recordings import INDEX, Packed, Recordings
from sslsv.data.section import BANK_FOLDERS
from sslsv.prepare_data.disk import check_room, naming_full_disk, progress, readable_bytes, write_whole
from sslsv.prepare_data.shard_files import Shard, check_shard, write_index, write_shard

_UNFINISHED = "packing.json"  # in a folder that is not finished: what it is a pack of
_NAMED = 10  # unreadable recordings that are named; the index holds all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data pack` takes."""
    add = parser.add_argument
    add("root", type=Path, metavar="DATA_ROOT", help="folder of the lists and recordings")
    add(
        "--lists",
        nargs="+",
        metavar="LIST",
        help="train and trial lists (*train_list, *trials*, *_test_* in DATA_ROOT)",
    )
    add("--out", type=Path, help="where to write (DATA_ROOT/packed)")
    add("--shard-mb", type=int, default=1024, help="about the size of a file (%(default)s)")
    add("--jobs", type=int, default=os.cpu_count(), help="files made at once (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Pack, or check what is packed; returns 1 if some recordings are unreadable."""
    out = options.out or options.root / "packed"
    with naming_full_disk(out):
        is_new = pack(options.root, out, options.lists, shard_mb=options.shard_mb, jobs=options.jobs)
    packed = Packed(os.path.abspath(out))
    bad, shards = packed.unreadable(), packed.facts["shards"]
    size = readable_bytes(2 * sum(shard["num_samples"] for shard in shards))
    noises, rooms = (len(packed.find(name)) for name in BANK_FOLDERS)
    print(
        f"{out}: {len(packed)} recordings, {noises} noises and {rooms} rooms among them, {size} in "
        f"{len(shards)} files: {'packed' if is_new else 'is there already; all its checksums hold'}."
    )
    for sentence in list(bad.values())[:_NAMED]:
        print(f"unreadable: {sentence}", file=sys.stderr)
    if len(bad) > _NAMED:
        print(f"unreadable: {len(bad) - _NAMED} others; see `error` in {out / INDEX}", file=sys.stderr)
    print(f"Train with data.root={out}")
    return 1 if bad else 0


def pack(
    root: Path, out: Path, lists: list[str] | None = None, *, shard_mb: int = 1024, jobs: int | None = None
) -> bool:
    """Pack `root` into `out`; returns False if it was packed already, and checked now.

    Raises FileExistsError for an `out` that holds anything else, ValueError for one that is damaged, or when
    there is nothing to pack.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one that holds the lists.")
    recordings = Recordings(root)
    lists = find_lists(root) if lists is None else lists
    noises, rooms = (recordings.find(name) for name in BANK_FOLDERS)
    for name, found in zip(BANK_FOLDERS, (noises, rooms), strict=True):
        if not found:
            print(f"{root / name} holds no audio: packed without it.")
    names = sorted({*_names_in(root, lists), *noises, *rooms}, key=os.fsencode)
    source = _identity(recordings, [*names, *lists])
    if (out / INDEX).exists():
        packed = Packed(os.path.abspath(out))
        if packed.facts["source"] != source:
            raise FileExistsError(
                f"{out} is packed from other lists or recordings, or they changed since: choose another "
                "--out, or delete it."
            )
        with ThreadPoolExecutor(jobs) as pool:
            written = [Shard(**shard, recordings=[]) for shard in packed.facts["shards"]]
            list(pool.map(functools.partial(check_shard, out), written))
        return False
    there = sum(file.stat().st_size for file in out.glob("shard-*.int16"))
    # About as much as the files take: 16 bits a sample, as most of them have.
    check_room(out, sum(_size(recordings, name) for name in names) - there, f"Packing {root}")
    _begin(out, {"source": source, "shard_mb": shard_mb})
    parts = _parts(recordings, names, shard_mb * 2**20)
    is_stopped = Event()
    with progress("packing", len(names)) as bar, ThreadPoolExecutor(jobs) as pool:

        def write(number: int) -> Shard:
            which = (out, number, recordings, parts[number], frozenset(rooms))
            return write_shard(*which, bar.update, is_stopped)

        try:
            shards = list(pool.map(write, range(len(parts))))
        except BaseException:
            is_stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    for name in lists:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, out / name)
    write_index(out, parts, shards, source)
    for leftover in (*out.glob("shard-*.json"), out / _UNFINISHED):
        leftover.unlink()
    return True


def _names_in(root: Path, lists: list[str]) -> set[str]:
    if not lists:
        raise ValueError(f"{root} holds no list of recordings: name some with --lists, below {root}.")
    names: set[str] = set()
    for name in lists:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"The list {name} does not lie below {root}: its copy would have no place.")
        if is_trial_list(root, name):
            names.update(read_trials(root, name).paths)
        else:
            names.update(path for _, _, path in train_rows(root, name))
    return names


def _identity(recordings: Recordings, names: list[str]) -> str:
    """Return a digest of names, sizes and times of change of all files."""
    digest = hashlib.sha256()
    for name in names:
        stamp = "missing"
        with contextlib.suppress(OSError):
            status = os.stat(recordings.location(name))
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        digest.update(os.fsencode(name) + f"\0{stamp}\0".encode())
    return digest.hexdigest()


def _size(recordings: Recordings, name: str) -> int:
    place = recordings.location(name)
    return os.path.getsize(place) if os.path.exists(place) else 0


def _begin(out: Path, job: dict[str, Any]) -> None:
    marker = out / _UNFINISHED
    if not out.exists() or not any(out.iterdir()):
        write_whole(marker, json.dumps(job).encode())
    found = json.loads(marker.read_text()) if marker.exists() else {}
    if found.get("source") != job["source"]:
        state = "an unfinished pack of other recordings" if found else "something else"
        raise FileExistsError(f"{out} holds {state}: choose another --out, or delete it.")
    if found != job:
        raise FileExistsError(
            f"{out} holds a pack that was begun with --shard-mb {found['shard_mb']}, and this is "
            f"{job['shard_mb']}: give the same to finish it, or delete it."
        )


def _parts(recordings: Recordings, names: list[str], part_bytes: int) -> list[list[str]]:
    """Return the names in parts of about so many bytes of files."""
    parts, size = [list[str]()], 0
    for name in names:
        if size >= part_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += _size(recordings, name)
    return parts
