"""Pack a corpus into a few large files, with its noises, rooms and lists: training reads it without opening
a million files, and gets the very same samples (`data.root=PACKED`).

The recordings are those of the lists; unreadable ones are packed as such, with the reason.  An interrupted
pack goes on when the command is repeated; on a finished one it checks every byte against its checksum.
"""

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from sslsv.data.recordings import INDEX, Packed
from sslsv.prepare_data.disk import check_room, naming_full_disk, write_whole
from sslsv.prepare_data.pack_contents import MUSAN_DIR, RIRS_DIR, find_contents
from sslsv.prepare_data.progress_line import ProgressLine, readable_bytes
from sslsv.prepare_data.shard_files import Shard, check_shard, write_index, write_shard

_UNFINISHED = "packing.json"  # says what an unfinished folder is a pack of
_NAMED = 10  # unreadable recordings that are named; the index holds all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data pack` takes."""
    parser.add_argument("root", type=Path, metavar="DATA_ROOT", help="folder of the lists and recordings")
    parser.add_argument(
        "--lists",
        nargs="+",
        metavar="LIST",
        help="train and trial lists (all that lie directly in DATA_ROOT)",
    )
    parser.add_argument("--out", type=Path, help="where to write (DATA_ROOT/packed)")
    for name, what, default in (("musan", "noises", MUSAN_DIR), ("rirs", "rooms", RIRS_DIR)):
        parser.add_argument(f"--{name}-dir", help=f"{what} below DATA_ROOT ({default}, if it is there)")
    parser.add_argument("--shard-mb", type=int, default=1024, help="about the size of a file (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="files made at once (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Pack, or check what is packed; returns 1 if some recordings are unreadable."""
    out = options.out or options.root / "packed"
    with naming_full_disk(out):
        is_new = pack(
            options.root,
            out,
            lists=options.lists,
            musan_dir=options.musan_dir,
            rirs_dir=options.rirs_dir,
            shard_mb=options.shard_mb,
            jobs=options.jobs,
        )
    packed = Packed(os.path.abspath(out))
    bad = packed.unreadable()
    size = readable_bytes(2 * sum(shard["num_samples"] for shard in packed.facts["shards"]))
    state = "packed" if is_new else "is there already; all its checksums hold"
    noises, rooms = packed.find(options.musan_dir or MUSAN_DIR), packed.find(options.rirs_dir or RIRS_DIR)
    print(
        f"{out}: {len(packed)} recordings, {len(noises)} noises and {len(rooms)} rooms among them, {size} in "
        f"{len(packed.facts['shards'])} files: {state}."
    )
    for sentence in list(bad.values())[:_NAMED]:
        print(f"unreadable: {sentence}", file=sys.stderr)
    if len(bad) > _NAMED:
        print(f"unreadable: {len(bad) - _NAMED} others; see `error` in {out / INDEX}", file=sys.stderr)
    print(f"Train with data.root={out}")
    return 1 if bad else 0


def pack(
    root: Path,
    out: Path,
    *,
    lists: list[str] | None = None,
    musan_dir: str | None = None,
    rirs_dir: str | None = None,
    shard_mb: int = 1024,
    jobs: int | None = None,
) -> bool:
    """Pack `root` into `out`; returns False if it was packed already, and checked now.

    Noises and rooms are those of the default folders, unless others are given: these must hold some.
    Raises FileExistsError for an `out` that holds anything else, ValueError for one that is damaged, or when
    there is nothing to pack.
    """
    contents = find_contents(root, lists, musan_dir, rirs_dir)
    identity = contents.identity()
    if (out / INDEX).exists():
        packed = Packed(os.path.abspath(out))
        if packed.facts["source"] != identity:
            raise FileExistsError(
                f"{out} is packed from other lists or recordings, or they changed since: choose another "
                "--out, or delete it."
            )
        with ThreadPoolExecutor(jobs) as pool:
            list(
                pool.map(
                    lambda shard: check_shard(out, Shard(**shard, recordings=[])), packed.facts["shards"]
                )
            )
        return False
    check_room(out, contents.estimated_bytes() - _bytes_there(out), f"Packing {root}")
    _begin(out, identity, shard_mb)
    parts = contents.parts(shard_mb * 2**20)
    shards: list[Shard] = []
    is_stopped = Event()
    total = len(contents.names)
    with ProgressLine("packing", total) as progress, ThreadPoolExecutor(jobs) as pool:
        try:
            jobs_begun = [
                pool.submit(
                    write_shard, out, i, contents.recordings, part, contents.rooms, progress.add, is_stopped
                )
                for i, part in enumerate(parts)
            ]
            shards = [job.result() for job in jobs_begun]
        except BaseException:
            is_stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    for name in contents.lists:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, out / name)
    write_index(out, parts, shards, identity)
    for leftover in (*out.glob("shard-*.json"), out / _UNFINISHED):
        leftover.unlink()
    return True


def _bytes_there(out: Path) -> int:
    return sum(file.stat().st_size for file in out.glob("shard-*.int16"))


def _begin(out: Path, identity: str, shard_mb: int) -> None:
    marker = out / _UNFINISHED
    if not out.exists() or not any(out.iterdir()):
        write_whole(marker, json.dumps({"source": identity, "shard_mb": shard_mb}).encode())
        return
    found = json.loads(marker.read_text()) if marker.exists() else {}
    if found.get("source") != identity:
        what = "an unfinished pack of other recordings" if found else "something else"
        raise FileExistsError(f"{out} holds {what}: choose another --out, or delete it.")
    if found["shard_mb"] != shard_mb:
        raise FileExistsError(
            f"{out} holds a pack that was begun with --shard-mb {found['shard_mb']}, and this is {shard_mb}: "
            "give the same to finish it, or delete it."
        )
