"""Open the recordings below `data.root` by name, from a folder of files or from a packed folder.

`prepare_data pack` makes a packed folder. Used as `data.root`, it gives the same samples from a few files:

    index.parquet       a row for each recording, sorted by the bytes of its name:
                        name, shard, first_sample, num_samples (0: unreadable), error ("" or why)
    shard-00000.int16   samples of recordings, one after another: 16 kHz, mono, little-endian
    voxceleb2_train_list ...  lists, unchanged

The index is written last, so a folder with an index is complete. On a local disk shards are memory-mapped, so
that all processes of a machine share the pages in memory. On other storage (s3://, gs://, hdfs://), reading a
crop is one request.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import time
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs, parquet

from sslsv.data.audio import SAMPLE_RATE, AudioError, Recording, Samples, Waveform, open_audio
from sslsv.data.audio_files import find_audio_files
from sslsv.runs.folder import absolute, below, is_uri, open_filesystem
from sslsv.settings import command_name

INDEX = "index.parquet"
FORMAT = 1  # version of packed folders
METADATA_KEY = b"sslsv"  # entry of the index: format, sample_rate, shards [{file, num_samples}], source
_SEGMENT = re.compile(r"(.+)#t=([\d.]+),([\d.]*)", re.DOTALL)  # syntax of media fragments in URIs
PATIENCE_SECONDS = 600.0  # how long to wait for a lost `data.root`
_PIECE_BYTES = 4096  # size of each of the three pieces of a file in its fingerprint
_AT_ONCE = 16  # concurrent file accesses; network disks have high latency but serve many requests at once


class Recordings:
    """Open recordings by name, which is their path in a list: below the folder `root`, or absolute."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = absolute(root)

    def open(self, name: str) -> Recording:
        """Open a recording; raises AudioError.

        If the entire folder is gone, such as a lost mount, waits for it; raises OSError after ten minutes.
        """
        path, times = split_segment(self.location(name))
        recording = self._open_file(path)
        return Segment(recording, *times) if times else recording

    def _open_file(self, path: str) -> Recording:
        with contextlib.suppress(AudioError):
            return open_audio(path)
        deadline = time.monotonic() + PATIENCE_SECONDS
        is_below = path.startswith(os.path.join(self.root, ""))  # False for an absolute path elsewhere
        while is_below and not (os.path.exists(path) or (os.path.isdir(self.root) and os.listdir(self.root))):
            if time.monotonic() > deadline:
                raise FileNotFoundError(
                    f"data.root, {self.root}, has been gone for {PATIENCE_SECONDS / 60:.0f} minutes; mount it"
                )
            time.sleep(0.5)
        return open_audio(path)

    def read_whole(self, name: str) -> Waveform:
        """Return all samples of a recording, (T,), full scale 1; raises AudioError."""
        with self.open(name) as recording:
            return recording.read_whole()

    def find(self, folder: str) -> list[str]:
        """Return the names of all recordings below a folder, in the order of their bytes; possibly empty."""
        location = self.location(folder)
        paths = find_audio_files(location)[0] if os.path.isdir(location) else []
        names = [os.path.join(folder, os.path.relpath(path, location)) for path in paths]
        return sorted(names, key=os.fsencode)

    def has(self, name: str) -> bool:
        """Return whether a recording of this name exists, readable or not."""
        return os.path.exists(split_segment(self.location(name))[0])

    def location(self, name: str) -> str:
        """Return the full path of a recording; the path of a segment ends in its times."""
        return below(self.root, name)

    def _file(self, name: str) -> str:
        return self.location(split_segment(name)[0])

    def sizes(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the size (N,) of each file in bytes, -1 if it is missing."""
        sizes = np.full(len(names), -1, dtype=np.int64)

        def look(first: int) -> None:
            for i in range(first, len(names), _AT_ONCE):
                with contextlib.suppress(OSError):
                    sizes[i] = os.stat(self._file(names[i])).st_size

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(look, range(_AT_ONCE)))
        return sizes

    def fingerprints(self, names: Sequence[str]) -> list[str]:
        """Return a digest of the size and three pieces of each recording, "" if it can't be read."""

        def digest(name: str) -> str:
            try:
                pieces = self._pieces(name)
            except (AudioError, OSError):
                return ""
            return hashlib.blake2b(b"".join(pieces), digest_size=16).hexdigest()

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(digest, names))

    def _pieces(self, name: str) -> list[bytes]:
        with open(self._file(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            starts = (0, size // 2, max(0, size - _PIECE_BYTES))
            return [str(size).encode(), *(os.pread(file.fileno(), _PIECE_BYTES, start) for start in starts)]


def open_recordings(root: str | os.PathLike[str]) -> Recordings:
    """Open `data.root`: a folder of files, or a packed folder, which may also be a URI.

    Raises ValueError for a damaged packed folder, FileNotFoundError for a URI without a packed folder.
    """
    location = absolute(root)
    if is_uri(location):
        return _packed(location, 0)
    index = os.path.join(location, INDEX)
    return _packed(location, os.stat(index).st_mtime_ns) if os.path.isfile(index) else Recordings(location)


class Packed(Recordings):
    """Open the recordings of a packed folder; processes that get it through Ray share the index."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        filesystem, path = open_filesystem(root)
        try:
            status = filesystem.get_file_info(f"{path}/{INDEX}")
            table = parquet.read_table(f"{path}/{INDEX}", filesystem=filesystem)
            self.facts: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA_KEY])
            names, errors = table["name"].to_pylist(), table["error"].to_pylist()
            columns = (table[name].to_numpy() for name in ("shard", "first_sample", "num_samples"))
            self._shards, self._starts, self._lengths = columns
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{root} is not a packed folder: it has no {INDEX}. Only packed folders are read from object "
                f"storage: `{command_name('prepare_data')} pack FOLDER --out PACKED`, then copy PACKED there."
            ) from error
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise ValueError(f"{root}/{INDEX} cannot be read: {error}. Copy the folder again.") from error
        if (self.facts["format"], self.facts["sample_rate"]) != (FORMAT, SAMPLE_RATE):
            raise ValueError(f"{root} is packed for another version of this program: pack it again.")
        self.stamp = status.size, status.mtime_ns or 0  # identifies this version of the packed folder
        # An array, not a list, so that other processes get a million names through shared memory.
        self._names = np.array(names, dtype=np.bytes_)
        # The recordings that were unreadable when they were packed, and why.
        self.errors = {os.fsdecode(name): cause for name, cause in zip(names, errors, strict=True) if cause}
        sizes = {info.base_name: info.size for info in filesystem.get_file_info(fs.FileSelector(path))}
        for shard in self.facts["shards"]:
            size, expected = sizes.get(shard["file"], 0), 2 * shard["num_samples"]
            if size != expected:
                raise ValueError(
                    f"{root}/{shard['file']} has {size} bytes, but the index says {expected} bytes: copy it "
                    "again, or delete the folder and pack again."
                )
        self._open_shards: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open_shards": {}}

    def __len__(self) -> int:
        return len(self._names)

    def open(self, name: str) -> Recording:
        """Open a recording; raises AudioError if it is not packed, or was unreadable when it was packed."""
        row = self._row(name)
        if row is None:
            raise AudioError(f"{name} is not in the packed folder {self.root}.")
        if name in self.errors:
            raise AudioError(self.errors[name])
        shard = self._open_shard(int(self._shards[row]))
        return _PackedRecording(self.location(name), shard, int(self._starts[row]), int(self._lengths[row]))

    def sizes(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return -(2 + samples) of each recording (N,), which is never a file's size; -1 if it is missing."""
        rows = [self._row(name) for name in names]
        return np.array([-1 if row is None else -2 - int(self._lengths[row]) for row in rows], np.int64)

    def _pieces(self, name: str) -> list[bytes]:
        with self.open(name) as recording:
            size, count = recording.num_samples, min(recording.num_samples, _PIECE_BYTES // 2)
            starts = (0, (size - count) // 2, size - count)
            pieces = [recording.read_int16(start, count).tobytes() for start in starts]
            return [str(size).encode(), *pieces]

    def find(self, folder: str) -> list[str]:
        """Return the names of all packed recordings below a folder, sorted."""
        is_below = np.char.startswith(self._names, os.fsencode(os.path.join(folder, "")))
        return [os.fsdecode(name) for name in self._names[is_below].tolist()]

    def has(self, name: str) -> bool:
        return self._row(name) is not None

    def _row(self, name: str) -> int | None:
        key = os.fsencode(name)
        row = bisect_left(self._names, key)
        return row if row < len(self._names) and self._names[row] == key else None

    def _open_shard(self, number: int) -> Any:
        if number not in self._open_shards:
            location = below(self.root, self.facts["shards"][number]["file"])
            filesystem, path = open_filesystem(location)
            self._open_shards[number] = (
                filesystem.open_input_file(path)
                if is_uri(location)
                else np.memmap(path, dtype=np.int16, mode="r").view(np.ndarray)
            )
        return self._open_shards[number]


class Segment(Recording):
    """Read a part of a recording, from `start` to `stop` in seconds; `stop` None means the end."""

    def __init__(self, whole: Recording, start: float, stop: float | None) -> None:
        self.path, self.is_slow, self._recording = whole.path, whole.is_slow, whole
        self._first = round(start * SAMPLE_RATE)
        last = whole.num_samples if stop is None else round(stop * SAMPLE_RATE)
        self.num_samples = min(last, whole.num_samples) - self._first
        if self.num_samples <= 0:
            whole.close()
            raise AudioError(f"{self.path} ends before its segment begins, at {start:g} s.")

    def close(self) -> None:
        self._recording.close()

    def _read(self, start: int, count: int) -> Samples:
        return self._recording.read_int16(self._first + start, count)


def segment_name(name: str, start: float, stop: float) -> str:
    """Return the name of a segment, with its seconds: `a.wav#t=1.5,4`; a `stop` below 0 means the end."""
    end = f"{stop:.4f}".rstrip("0").rstrip(".") if stop >= 0 else ""
    return f"{name}#t={start:.4f}".rstrip("0").rstrip(".") + f",{end}"


def split_segment(name: str) -> tuple[str, tuple[float, float | None] | None]:
    """Split a name into the file and, for a segment, its (start, stop or None) in seconds, else None."""
    match = _SEGMENT.fullmatch(name) if "#t=" in name else None
    if match is None:
        return name, None
    return match[1], (float(match[2]), float(match[3]) if match[3] else None)


class _PackedRecording(Recording):
    def __init__(self, path: str, shard: Any, first_sample: int, num_samples: int) -> None:
        self.path, self.num_samples = path, num_samples
        self._shard, self._first_sample = shard, first_sample

    def mapped(self) -> Samples | None:
        return self._read(0, self.num_samples) if isinstance(self._shard, np.ndarray) else None

    def _read(self, start: int, count: int) -> Samples:
        first = self._first_sample + start
        if isinstance(self._shard, np.ndarray):
            return self._shard[first : first + count]
        try:
            data = self._shard.read_at(2 * count, 2 * first)  # one request
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {' '.join(str(error).split())}.") from error
        return np.frombuffer(data, dtype=np.int16)


def stamp(path: str) -> tuple[int, int]:
    """Return the size and modification time (ns) of a file, to detect changes; zeros if it is missing."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return 0, 0


@functools.lru_cache(maxsize=4)
def _packed(root: str, _changed_ns: int) -> Packed:
    # `_changed_ns` is part of the cache key: a folder packed again is opened again. The cache saves a second
    # for a million rows, and a run opens the index several times.
    return Packed(root)
