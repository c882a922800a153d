"""The bank: noises and room impulse responses (rirs), drawn at random."""

import functools
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import SAMPLE_RATE, AudioError, Samples
from sslsv.data.draws import Draws
from sslsv.data.recordings import Recordings
from sslsv.data.section import ORIGINAL_FOLDERS

Drawn = TypeVar("Drawn")

_MAX_RIR_SECONDS = 2.5  # the tail after it is inaudible and costs FFT length
_WHOLE_NOISE_SECONDS = 30.0  # encoded files up to this are kept decoded; of longer ones a crop is decoded
_MAX_MAPPED = 20_000  # files, each of which stays open; Linux allows a process 65,530 maps
_TRIES = 20  # draws of another file before unreadable ones stop the run


class Rir(NamedTuple):
    """Describe an impulse response: its file, the place of its direct path, and how much of it is used."""

    file: int
    delay: int
    num_samples: int


class Bank:
    """Hold the noises and rirs that augmentations draw from; file number i is `files[i]`.

    A file is opened when it is drawn, and replaced by another one if it is unreadable. Noises in plain WAV
    files and in packed folders on a disk are mapped into memory, so that all processes of a machine share
    them; what has to be decoded or comes from object storage, and the spectra of rirs, are kept by each
    process in `cache`, the latest used up to `cache_mb`.
    """

    def __init__(self, recordings: Recordings, cache_mb: int) -> None:
        self.recordings = recordings
        self.files: list[str] = []
        self.cache = Cache(cache_mb * 2**20)
        self.notes: list[str] = []  # sentences: what is read in place of what
        self._in_folder: dict[str, range] = {}
        self._rirs: dict[int, Rir] = {}
        self._mapped: dict[int, Samples] = {}

    def __getstate__(self) -> dict[str, object]:
        # Other processes get the list of files, without the samples that this one holds.
        return {**self.__dict__, "_mapped": {}, "cache": Cache(self.cache.capacity_bytes)}

    def add(self, folder: str) -> None:
        """Add the files below a folder, if they are not there; FileNotFoundError if there is none."""
        if folder in self._in_folder:
            return
        place, found = find_noises(self.recordings, folder)
        if place != folder:
            self.notes.append(f"{folder} is not there: {place} is read in its place")
        if not found:
            raise FileNotFoundError(
                f"There are no audio files below {self.recordings.location(folder)}: name another folder in "
                "data.augment, or leave out what needs it (data.augment=[] for no augmentation)."
            )
        self._in_folder[folder] = range(len(self.files), len(self.files) + len(found))
        self.files += found

    def draw_noise(self, rng: Draws, folder: str, count: int) -> Samples:
        """Return `count` samples from a random place of a random file of a folder, at the file's level."""
        return self._draw(rng, folder, lambda file: self._read_noise(file, rng.fraction(), count))

    def draw_rir(self, rng: Draws, folder: str) -> Rir:
        """Return a random readable impulse response of a folder."""
        return self._draw(rng, folder, self._rir)

    def read_rir(self, file: int) -> Samples:
        """Return all samples of an impulse response."""
        with self.recordings.open(self.files[file]) as recording:
            return recording.read_rir()

    def _draw(self, rng: Draws, folder: str, use: Callable[[int], Drawn]) -> Drawn:
        files = self._in_folder[folder]
        for _ in range(_TRIES):
            file = files[rng.below(len(files))]
            # A file known to be bad is tried again: the draws must not depend on the files met before.
            try:
                return use(file)
            except AudioError as error:
                rng.bad_files.append(file)
                reason = str(error)
        raise AudioError(f"{_TRIES} noises or rirs in a row cannot be read; the last: {reason}")

    def _read_noise(self, file: int, place: float, count: int) -> Samples:
        whole = self._mapped[file] if file in self._mapped else self.cache.get((file,))
        if whole is None:
            with self.recordings.open(self.files[file]) as noise:
                length, whole = noise.num_samples, noise.mapped()
                if whole is not None:
                    if len(self._mapped) < _max_mapped():
                        self._mapped[file] = whole
                elif length > _WHOLE_NOISE_SECONDS * SAMPLE_RATE and length >= count:
                    return noise.read_int16(int(place * (length - count + 1)), count)
                else:
                    whole = self.cache.put((file,), noise.read_int16(0, length))
        if len(whole) >= count:
            start = int(place * (len(whole) - count + 1))
            return whole[start : start + count]
        return np.resize(np.roll(whole, -int(place * len(whole))), count)

    def _rir(self, file: int) -> Rir:
        if file not in self._rirs:
            samples = self.read_rir(file).astype(np.int32)  # The absolute value of -32768 is no int16.
            delay = int(np.argmax(np.abs(samples)))
            used = min(len(samples), delay + int(_MAX_RIR_SECONDS * SAMPLE_RATE))
            self._rirs[file] = Rir(file, delay, used)
        return self._rirs[file]


@functools.cache
def _max_mapped() -> int:
    # Many systems let a process open 1,024 files unless it asks for more, up to the hard limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * _MAX_MAPPED if hard == resource.RLIM_INFINITY else min(hard, 2 * _MAX_MAPPED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most // 2


def find_noises(recordings: Recordings, folder: str) -> tuple[str, list[str]]:
    """Return the folder to read, as named or as its archive unpacks (`ORIGINAL_FOLDERS`), and its files."""
    kind, slash, below = folder.partition("/")
    original = f"{ORIGINAL_FOLDERS.get(kind, kind)}{slash}{below}"
    for place in (folder, original):
        if found := recordings.find(place):
            return place, found
    return folder, []


class Cache:
    """Keep arrays by key, the latest used ones up to a number of bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes, self.num_bytes = capacity_bytes, 0
        self._arrays: OrderedDict[tuple[int, ...], npt.NDArray[Any]] = OrderedDict()

    def get(self, key: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """Return the array of a key, or None."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: tuple[int, ...], array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep an array, drop those used longest ago while there are too many bytes, and return it."""
        self._arrays[key] = array
        self.num_bytes += array.nbytes
        while self.num_bytes > self.capacity_bytes and self._arrays:
            self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
