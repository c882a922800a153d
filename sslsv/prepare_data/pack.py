"""Pack a corpus into a few large files, with its noises, rooms and lists: training reads it without opening
a million files, and gets the very same samples (`data.root=PACKED`).

The recordings are those of the lists; unreadable ones are packed as such, with the reason.  An interrupted
pack goes on when the command is repeated; on a finished one it checks every byte against its checksum.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from sslsv.data.audio import AudioError
from sslsv.data.audio_files import AUDIO_SUFFIXES
from sslsv.data.augment import AugmentConfig
from sslsv.data.list_files import is_trial_list, train_rows
from sslsv.data.manifest import read_trials
from sslsv.data.recordings import Folder
from sslsv.data.shard_files import Shard, check_shard, write_index, write_shard
from sslsv.data.shards import INDEX, Packed
from sslsv.prepare_data.disk import check_room, naming_full_disk, write_whole
from sslsv.prepare_data.progress_line import ProgressLine, readable_bytes

_UNFINISHED = "packing.json"  # says what an unfinished folder is a pack of
_PROBED = 64  # recordings whose lengths tell how much room all will take
_NAMED = 10  # unreadable recordings that are named; the index holds all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data pack` takes."""
    defaults = AugmentConfig()
    parser.add_argument("root", type=Path, metavar="DATA_ROOT", help="folder of the lists and recordings")
    parser.add_argument(
        "--lists",
        nargs="+",
        metavar="LIST",
        help="train and trial lists (all that lie directly in DATA_ROOT)",
    )
    parser.add_argument("--out", type=Path, help="where to write (DATA_ROOT/packed)")
    parser.add_argument(
        "--musan-dir", default=defaults.musan_dir, help="noises below DATA_ROOT (%(default)s)"
    )
    parser.add_argument("--rirs-dir", default=defaults.rirs_dir, help="rooms below DATA_ROOT (%(default)s)")
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
    print(f"{out}: {len(packed)} recordings, {size} in {len(packed.facts['shards'])} files: {state}.")
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
    musan_dir: str = AugmentConfig.musan_dir,
    rirs_dir: str = AugmentConfig.rirs_dir,
    shard_mb: int = 1024,
    jobs: int | None = None,
) -> bool:
    """Pack `root` into `out`; returns False if it was packed already, and checked now.

    Raises FileExistsError for an `out` that holds anything else, ValueError for one that is damaged, or when
    there is nothing to pack.
    """
    contents = find_contents(root, lists, (musan_dir, rirs_dir))
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


@dataclass(frozen=True)
class Contents:
    """What to pack: recordings by name, sorted; which of them are rooms; the lists that name them."""

    recordings: Folder
    names: list[str]
    rooms: frozenset[str]
    lists: list[str]

    def identity(self) -> str:
        """Digest of names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for name in (*self.names, *self.lists):
            try:
                status = os.stat(self.recordings.location(name))
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                stamp = "missing"
            digest.update(os.fsencode(name) + f"\0{stamp}\0".encode())
        return digest.hexdigest()

    def estimated_bytes(self) -> float:
        """Room that the samples will take, from the lengths of some recordings all over the corpus."""
        probed = self.names[:: max(1, len(self.names) // _PROBED)]
        num_samples = 0
        for name in probed:
            with contextlib.suppress(AudioError), self.recordings.open(name) as recording:
                num_samples += recording.num_samples
        return 2 * num_samples / len(probed) * len(self.names)

    def parts(self, part_bytes: int) -> list[list[str]]:
        """The names in parts of about so many bytes of files."""
        parts: list[list[str]] = [[]]
        size = 0
        for name in self.names:
            if size >= part_bytes:
                parts.append([])
                size = 0
            parts[-1].append(name)
            path = self.recordings.location(name)
            size += os.path.getsize(path) if os.path.exists(path) else 0
        return parts


def find_contents(root: Path, lists: list[str] | None, banks: tuple[str, str]) -> Contents:
    """Find the recordings of the lists (None: all lists directly in `root`), the noises and the rooms."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one that holds the lists.")
    recordings = Folder(root)
    chosen = (
        lists if lists is not None else [name for name in sorted(os.listdir(root)) if _is_list(root, name)]
    )
    if not chosen:
        raise ValueError(f"{root} holds no list of recordings: name some with --lists, below {root}.")
    musan_dir, rirs_dir = banks
    rooms = recordings.find(rirs_dir)
    names = {*recordings.find(musan_dir), *rooms}
    for name in chosen:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"The list {name} does not lie below {root}: its copy would have no place.")
        if is_trial_list(root, name):
            names.update(read_trials(root, name, is_strict=False).paths)
        else:
            names.update(path for _, _, path in train_rows(root, name))
    return Contents(recordings, sorted(names, key=os.fsencode), frozenset(rooms), chosen)


def _is_list(root: Path, name: str) -> bool:
    # Trials, or `speaker path` lines whose first path is there.
    if not (root / name).is_file() or Path(name).suffix.lower() in AUDIO_SUFFIXES or name.startswith("."):
        return False
    try:
        if is_trial_list(root, name):
            return True
        _, _, path = next(train_rows(root, name))
    except ValueError:
        return False
    return (root / path).is_file()


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
