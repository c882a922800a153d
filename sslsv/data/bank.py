"""The bank of noises and room impulse responses (rirs) from which augmentations draw at random."""

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

_MAX_RIR_SECONDS = 2.5  # used after the direct path; the later tail is inaudible and lengthens FFTs
_WHOLE_NOISE_SECONDS = 30.0  # shorter encoded files are kept decoded; longer ones are decoded per crop
_MAX_MAPPED = 20_000  # mapped files, each of which stays open; Linux allows 65,530 maps per process
_TRIES = 20  # unreadable files drawn in a row that stop the run


class Rir(NamedTuple):
    """Describe an impulse response: its file, the sample of its direct path, the number of samples used."""

    file: int
    delay: int
    num_samples: int


class Bank:
    """Hold the noises and rirs that augmentations draw from; file number i is `files[i]`.

    A file is opened when it is drawn; if it is unreadable, another file is drawn. Noises in plain WAV files
    and in packed folders on a disk are mapped into memory, so that all processes of a machine share them.
    Each process keeps other short noises (decoded, or from object storage) and the spectra of rirs in its
    `cache`, which drops the least recently used arrays beyond `cache_mb`.
    """

    def __init__(self, recordings: Recordings, cache_mb: int) -> None:
        self.recordings = recordings
        self.files: list[str] = []
        self.cache = Cache(cache_mb * 2**20)
        self.notes: list[str] = []  # about folders that are read in place of missing ones
        self._in_folder: dict[str, range] = {}
        self._rirs: dict[int, Rir] = {}
        self._mapped: dict[int, Samples] = {}

    def __getstate__(self) -> dict[str, object]:
        # Other processes get the list of files but not the samples that this process holds.
        return {**self.__dict__, "_mapped": {}, "cache": Cache(self.cache.capacity_bytes)}

    def add(self, folder: str) -> None:
        """Add the files below a folder, unless added before; raises FileNotFoundError if there are none."""
        if folder in self._in_folder:
            return
        source, files = find_noises(self.recordings, folder)
        if source != folder:
            self.notes.append(f"{folder} does not exist: {source} is read instead")
        if not files:
            raise FileNotFoundError(
                f"There are no audio files below {self.recordings.location(folder)}: name another folder in "
                "data.augment, or leave out what needs it (data.augment=[] for no augmentation)."
            )
        self._in_folder[folder] = range(len(self.files), len(self.files) + len(files))
        self.files += files

    def draw_noise(self, rng: Draws, folder: str, count: int) -> Samples:
        """Return `count` samples from a random position in a random file of a folder, at the file's level."""
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
            # A file known to be bad is tried again, because draws must not depend on earlier reads.
            try:
                return use(file)
            except AudioError as error:
                rng.bad_files.append(file)
                reason = str(error)
        raise AudioError(f"{_TRIES} noises or rirs in a row cannot be read; the last: {reason}")

    def _read_noise(self, file: int, fraction: float, count: int) -> Samples:
        samples = self._mapped[file] if file in self._mapped else self.cache.get((file,))
        if samples is None:
            with self.recordings.open(self.files[file]) as noise:
                length, samples = noise.num_samples, noise.mapped()
                if samples is not None:
                    if len(self._mapped) < _max_mapped():
                        self._mapped[file] = samples
                elif length > _WHOLE_NOISE_SECONDS * SAMPLE_RATE and length >= count:
                    return noise.read_int16(int(fraction * (length - count + 1)), count)
                else:
                    samples = self.cache.put((file,), noise.read_int16(0, length))
        if len(samples) >= count:
            start = int(fraction * (len(samples) - count + 1))
            return samples[start : start + count]
        return np.resize(np.roll(samples, -int(fraction * len(samples))), count)

    def _rir(self, file: int) -> Rir:
        if file not in self._rirs:
            samples = self.read_rir(file).astype(np.int32)  # int16 has no absolute value of -32768
            delay = int(np.argmax(np.abs(samples)))
            num_samples = min(len(samples), delay + int(_MAX_RIR_SECONDS * SAMPLE_RATE))
            self._rirs[file] = Rir(file, delay, num_samples)
        return self._rirs[file]


@functools.cache
def _max_mapped() -> int:
    # On many systems a process may open 1,024 files until it asks for more, up to the hard limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 2 * _MAX_MAPPED if hard == resource.RLIM_INFINITY else min(hard, 2 * _MAX_MAPPED)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit // 2


def find_noises(recordings: Recordings, folder: str) -> tuple[str, list[str]]:
    """Return the folder of noises or rirs to read, and its files; see `ORIGINAL_FOLDERS` for an empty one."""
    first, slash, rest = folder.partition("/")
    original = f"{ORIGINAL_FOLDERS.get(first, first)}{slash}{rest}"
    for candidate in (folder, original):
        if files := recordings.find(candidate):
            return candidate, files
    return folder, []


class Cache:
    """Keep the most recently used arrays, by key, up to a total number of bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes, self.num_bytes = capacity_bytes, 0
        self._arrays: OrderedDict[tuple[int, ...], npt.NDArray[Any]] = OrderedDict()

    def get(self, key: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """Return the array of a key, or None."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: tuple[int, ...], array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Keep and return an array; drop the least recently used arrays while there are too many bytes."""
        self._arrays[key] = array
        self.num_bytes += array.nbytes
        while self.num_bytes > self.capacity_bytes and self._arrays:
            self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
