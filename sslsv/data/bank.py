"""The bank: noises and rooms below the data root, drawn at random."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from sslsv.data.acoustics import Spectrum, fft_length, room_spectra
from sslsv.data.audio import SAMPLE_RATE, AudioError
from sslsv.data.draws import Draws
from sslsv.data.rounding import Samples
from sslsv.data.shards import open_recordings

if TYPE_CHECKING:
    from sslsv.data.augment import AugmentConfig

logger = logging.getLogger(__name__)

Drawn = TypeVar("Drawn")

_MAX_ROOM_SECONDS = 2.5  # of an impulse response; the tail after it is inaudible and costs FFT length
_WHOLE_NOISE_SECONDS = 30.0  # encoded files up to this are kept decoded; of longer ones a crop is decoded
_MAX_MAPPED = 20_000  # files; Linux allows a process 65,530 maps
_TRIES = 20  # draws of another noise or room before unreadable files stop the run


class Bank:
    """The noises and rooms that augmentation may use, opened when drawn.

    Noises in plain WAV files and in packed folders on a disk are mapped into memory, so that all processes of
    a machine share them; what has to be decoded or comes from object storage, and the spectra of rooms, are
    kept by each process, the latest used up to `bank_cache_mb`. File number i is `files()[i]`, sorted within
    its kind. An unreadable file is reported once and another one is drawn instead. Raises FileNotFoundError
    when a folder that the strategy needs is missing or holds no audio.
    """

    def __init__(self, root: str | os.PathLike[str], config: "AugmentConfig") -> None:
        self.recordings = open_recordings(root)
        self._names: list[str] = []
        self._of_kind: dict[str, range] = {}
        for kind in config.noise_kinds if config.uses_noise else ():
            self._add(kind, os.path.join(config.musan_dir, kind), "musan_dir")
        if config.uses_rooms:
            self._add("room", config.rirs_dir, "rirs_dir")
        self._cache = _Cache(config.bank_cache_mb * 2**20)
        self._rooms: dict[int, tuple[int, int]] = {}  # file: delay, samples used
        self._mapped: dict[int, Samples] = {}
        self._bad: dict[int, str] = {}

    def _add(self, kind: str, folder: str, key: str) -> None:
        found = self.recordings.find(folder)
        if not found:
            place = self.recordings.location(folder)
            state = "holds no audio files" if os.path.isdir(place) else "does not exist"
            raise FileNotFoundError(
                f"The folder {place} {state}. Set data.augment.{key}, or an augmentation without it."
            )
        self._of_kind[kind] = range(len(self._names), len(self._names) + len(found))
        self._names += found

    def __getstate__(self) -> dict[str, object]:
        # Sent to other processes with its list of files, without what it decoded.
        return {**self.__dict__, "_mapped": {}, "_cache": _Cache(self._cache.capacity_bytes)}

    def files(self, kind: str | None = None) -> list[str]:
        """Return the names of all files, or those of one kind: noise, music, speech or room."""
        return self._names if kind is None else [self._names[i] for i in self._of_kind[kind]]

    def draw_noise(self, draws: Draws, kind: str, count: int) -> Samples:
        """Return `count` samples from a random place of a random file of a kind; their level is any."""

        def use(file: int) -> Samples:
            return self._read_noise(file, draws.fraction(), count)

        return self._draw(draws, kind, use)

    def draw_room(self, draws: Draws) -> int:
        """Return the number of a random room that is readable."""
        return self._draw(draws, "room", self._know_room)

    def room_length(self, room: int, crop_samples: int) -> int:
        """Return the length of the FFT that convolves crops with a room."""
        return fft_length(crop_samples, self._rooms[room][1])

    def room_delay(self, room: int) -> int:
        """Return the place of the direct path in a room's impulse response."""
        return self._rooms[room][0]

    def room_spectra(self, rooms: Sequence[int], length: int) -> list[Spectrum]:
        """Return the spectra of N <= 4 rooms that were drawn, for an FFT length; see `acoustics`."""
        found = {room: self._cache.get((room, length)) for room in rooms}
        missing = [room for room, spectrum in found.items() if spectrum is None]
        if missing:
            made = room_spectra([self._read_room(room)[: self._rooms[room][1]] for room in missing], length)
            for room, spectrum in zip(missing, made, strict=True):
                found[room] = self._cache.put((room, length), spectrum.copy())
        return [found[room] for room in rooms]  # type: ignore[misc]

    def _draw(self, draws: Draws, kind: str, use: Callable[[int], Drawn]) -> Drawn:
        for _ in range(_TRIES):
            file = self._of_kind[kind][draws.below(len(self._of_kind[kind]))]
            # A file known to be bad is tried again: what is drawn must not depend on what this process met
            # before.
            try:
                return use(file)
            except AudioError as error:
                draws.bad_files.append(file)
                if file not in self._bad:
                    self._bad[file] = str(error)
                    logger.warning("Unusable noise or room, others are drawn instead: %s", error)
                reason = str(error)
        raise AudioError(f"{_TRIES} noises or rooms in a row cannot be read; the last: {reason}")

    def _read_noise(self, file: int, place: float, count: int) -> Samples:
        whole = self._mapped.get(file)
        if whole is None:
            whole = self._cache.get((file,))
        if whole is None:
            with self.recordings.open(self._names[file]) as noise:
                length, whole = noise.num_samples, noise.mapped()
                if whole is not None:
                    if len(self._mapped) < _MAX_MAPPED:
                        self._mapped[file] = whole
                elif length > _WHOLE_NOISE_SECONDS * SAMPLE_RATE and length >= count:
                    return noise.read_int16(int(place * (length - count + 1)), count)
                else:
                    whole = self._cache.put((file,), noise.read_int16(0, length))
        if len(whole) >= count:
            start = int(place * (len(whole) - count + 1))
            return whole[start : start + count]
        return np.resize(np.roll(whole, -int(place * len(whole))), count)

    def _know_room(self, file: int) -> int:
        if file not in self._rooms:
            room = self._read_room(file)
            # In 32 bits: the absolute value of -32768 is no int16.
            delay = int(np.argmax(np.abs(room.astype(np.int32))))
            if not room[delay]:
                raise AudioError(
                    f"{self.recordings.location(self._names[file])} is silent: it is no impulse response."
                )
            self._rooms[file] = delay, min(len(room), delay + int(_MAX_ROOM_SECONDS * SAMPLE_RATE))
        return file

    def _read_room(self, file: int) -> Samples:
        with self.recordings.open(self._names[file]) as room:
            return room.read_room()

    def explain(self, file: int) -> str:
        """Return why a file is unusable, in a sentence, by reading all of it again."""
        kind = next(kind for kind, files in self._of_kind.items() if file in files)
        try:
            if kind == "room":
                self._rooms.pop(file, None)
                self._know_room(file)
            else:
                self.recordings.read_whole(self._names[file])
        except AudioError as error:
            return str(error)
        return f"{self.recordings.location(self._names[file])} could not be read once, but can be now."


class _Cache:
    """Arrays by key, the latest used ones up to a number of bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.num_bytes = 0
        self._arrays: OrderedDict[tuple[int, ...], npt.NDArray[Any]] = OrderedDict()

    def get(self, key: tuple[int, ...]) -> npt.NDArray[Any] | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: tuple[int, ...], array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._arrays[key] = array
        self.num_bytes += array.nbytes
        while self.num_bytes > self.capacity_bytes and self._arrays:
            self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
