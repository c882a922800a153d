"""Rooms and noises: what makes two views of one recording sound as if recorded in different places."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import fft

from sslsv.data.acoustics import add_noise, convolve, fft_length, mean_square, unit_energy
from sslsv.data.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioFile,
    Waveform,
    find_audio,
    read_whole,
    wrap_to_length,
)

logger = logging.getLogger(__name__)

NoiseKind = Literal["noise", "music", "speech"]

_MAX_ROOM_SECONDS = 2.5  # of an impulse response; the tail after it is inaudible and costs FFT length
_WHOLE_NOISE_SECONDS = 30.0  # files up to this are kept decoded; of longer ones only the crop is read
_TRIES = 20  # draws of another noise or room before unreadable files stop the run


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How each view is augmented: first a room, then noise, then a level."""

    strategy: Literal["none", "noise", "reverb", "noise_or_reverb", "reverb_and_noise", "any"] = (
        "reverb_and_noise"
    )
    # any: none, reverb, noise or both, equally likely
    probability: float = 1.0  # that a view is augmented at all; its level is drawn in any case
    noise_kinds: tuple[NoiseKind, ...] = ("noise", "music", "speech")  # folders of musan_dir, equally likely
    noise_snr_db: tuple[float, float] = (0.0, 15.0)  # speech to noise, dB, drawn uniformly; lower is harder
    music_snr_db: tuple[float, float] = (5.0, 15.0)  # speech to music, dB
    speech_snr_db: tuple[float, float] = (13.0, 20.0)  # speech to other speech (babble), dB
    speech_files: tuple[int, int] = (1, 1)  # recordings summed for babble at equal levels, e.g. (3, 7)
    gain_db: tuple[float, float] = (
        0.0,
        0.0,
    )  # level of the finished view, dB; made quieter where it would clip
    musan_dir: str = "musan_split"  # below data.root, or absolute; holds noise/, music/ and speech/
    rirs_dir: str = "simulated_rirs"  # below data.root, or absolute; impulse responses at any depth
    bank_cache_mb: int = 256  # decoded noises and rooms kept in memory by each data process, MB

    def __post_init__(self) -> None:
        for name in ("noise_snr_db", "music_snr_db", "speech_snr_db", "speech_files", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(
                    f"data.augment.{name} is ({low}, {high}): the first must not exceed the second."
                )
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"data.augment.probability is {self.probability}; it must be between 0 and 1.")
        if self.speech_files[0] < 1:
            raise ValueError(
                f"data.augment.speech_files starts at {self.speech_files[0]}; babble needs at least 1."
            )
        if self.bank_cache_mb < 0:
            raise ValueError(f"data.augment.bank_cache_mb is {self.bank_cache_mb}; it must be 0 or more.")
        if self.uses_noise and not self.noise_kinds:
            raise ValueError(
                f"data.augment.noise_kinds is empty but the strategy is {self.strategy!r}: name noise, music "
                "or speech, or choose the strategy none or reverb."
            )

    @property
    def uses_noise(self) -> bool:
        """Whether the strategy ever adds noise."""
        return self.strategy not in ("none", "reverb")

    @property
    def uses_rooms(self) -> bool:
        """Whether the strategy ever adds a room."""
        return self.strategy not in ("none", "noise")


class Bank:
    """The noises and rooms below the data root, decoded when first used, the latest kept in memory.

    The order of the files is that of their sorted paths. An unreadable file is reported once and another one
    is drawn instead. Raises FileNotFoundError when a folder that the strategy needs is missing or holds no
    audio.
    """

    def __init__(self, root: str | os.PathLike[str], config: AugmentConfig) -> None:
        self._folders = {kind: Path(root) / config.musan_dir / kind for kind in ("noise", "music", "speech")}
        self._folders["room"] = Path(root) / config.rirs_dir
        self._files: dict[str, list[str]] = {}
        for kind in (
            *(config.noise_kinds if config.uses_noise else ()),
            *(("room",) if config.uses_rooms else ()),
        ):
            self.files(kind)
        self.capacity_bytes = config.bank_cache_mb * 2**20
        self._cache: OrderedDict[tuple[object, ...], tuple[npt.NDArray[Any], int]] = OrderedDict()
        self._cached_bytes = 0
        self._bad: dict[str, str] = {}

    def __getstate__(self) -> dict[str, object]:
        # Sent to other processes with its list of files, without what it decoded.
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}

    def files(self, kind: str) -> list[str]:
        """Return the sorted paths of one kind: noise, music, speech or room."""
        if kind not in self._files:
            folder = self._folders[kind]
            self._files[kind] = find_audio(folder)
            if not self._files[kind]:
                state = "holds no audio files" if folder.is_dir() else "does not exist"
                key = "rirs_dir" if kind == "room" else "musan_dir"
                raise FileNotFoundError(
                    f"The folder {folder} {state}. Set data.augment.{key}, or an augmentation without it."
                )
        return self._files[kind]

    @property
    def bad_files(self) -> dict[str, str]:
        """Unreadable files met so far by this process, with the reason."""
        return dict(self._bad)

    def draw_noise(self, rng: np.random.Generator, kind: str, count: int) -> Waveform:
        """Return `count` samples from a random place of a random file of a kind; its level means nothing."""
        return self._draw(rng, self.files(kind), lambda path: self._read_noise(path, rng.random(), count))

    def reverberate_randomly(self, rng: np.random.Generator, crop: Waveform) -> Waveform:
        """Return a crop (T,) as heard in a random room; see `reverberate`."""

        def apply(path: str) -> Waveform:
            spectrum, delay = self._cached((path, len(crop)), lambda: _room_spectrum(path, len(crop)))
            return convolve(crop, spectrum, delay, 2 * (len(spectrum) - 1))

        return self._draw(rng, self.files("room"), apply)

    def _draw(self, rng: np.random.Generator, files: list[str], use: Callable[[str], Waveform]) -> Waveform:
        path = ""
        for _ in range(_TRIES):
            path = files[int(rng.integers(len(files)))]
            # A file known to be bad is tried again: what is drawn must not depend on what this process met
            # before.
            try:
                return use(path)
            except AudioError as error:
                if path not in self._bad:
                    self._bad[path] = str(error)
                    logger.warning("Unusable noise or room, others are drawn instead: %s", error)
        raise AudioError(f"{_TRIES} noises or rooms in a row cannot be read; the last: {self._bad[path]}")

    def _read_noise(self, path: str, place: float, count: int) -> Waveform:
        whole = self._cached((path,), lambda: (_decode_short(path), 0))[0]
        if not len(whole):
            with AudioFile(path) as file:
                return file.read(int(place * (file.num_samples - count + 1)), count)
        if len(whole) >= count:
            start = int(place * (len(whole) - count + 1))
            return whole[start : start + count].astype(np.float32)
        return wrap_to_length(np.roll(whole, -int(place * len(whole))), count).astype(np.float32)

    def _cached(
        self, key: tuple[object, ...], make: Callable[[], tuple[npt.NDArray[Any], int]]
    ) -> tuple[npt.NDArray[Any], int]:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        value = make()
        self._cache[key] = value
        self._cached_bytes += value[0].nbytes
        while self._cached_bytes > self.capacity_bytes and self._cache:
            _, (dropped, _) = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.nbytes
        return value


def augment(crop: Waveform, config: AugmentConfig, bank: Bank, rng: np.random.Generator) -> Waveform:
    """Return a view of a crop (T,): room, then noise, then level, everything drawn from `rng`."""
    is_augmented = rng.random() < config.probability
    in_room, in_noise = _draw_strategy(config, rng) if is_augmented else (False, False)
    view = bank.reverberate_randomly(rng, crop) if in_room else crop
    if in_noise:
        kind = config.noise_kinds[int(rng.integers(len(config.noise_kinds)))]
        snr_db = rng.uniform(*getattr(config, f"{kind}_snr_db"))
        num_files = (
            int(rng.integers(config.speech_files[0], config.speech_files[1] + 1)) if kind == "speech" else 1
        )
        view = add_noise(view, _draw_sum(bank, rng, kind, num_files, len(crop)), snr_db)
    if config.gain_db != (0.0, 0.0):
        view = view * np.float32(10.0 ** (rng.uniform(*config.gain_db) / 20.0))
    return view


def _draw_strategy(config: AugmentConfig, rng: np.random.Generator) -> tuple[bool, bool]:
    if config.strategy == "noise_or_reverb":
        in_room = bool(rng.integers(2))
        return in_room, not in_room
    if config.strategy == "any":
        choice = int(rng.integers(4))
        return choice in (1, 3), choice in (2, 3)
    return config.uses_rooms, config.uses_noise


def _draw_sum(bank: Bank, rng: np.random.Generator, kind: str, num_files: int, count: int) -> Waveform:
    total = np.zeros(count, dtype=np.float32)
    for _ in range(num_files):
        noise = bank.draw_noise(rng, kind, count)
        power = mean_square(noise)
        total += noise * np.float32(1.0 / np.sqrt(power)) if power > 0.0 else noise
    return total


def _decode_short(path: str) -> npt.NDArray[np.int16]:
    with AudioFile(path) as file:
        if file.num_samples > _WHOLE_NOISE_SECONDS * SAMPLE_RATE:
            return np.zeros(0, dtype=np.int16)
        whole = file.read(0, file.num_samples)
    # Half the memory of float32; the level is set by the SNR anyway, so full scale loses nothing.
    peak = float(np.max(np.abs(whole)))
    scaled: npt.NDArray[np.int16] = np.rint(whole * np.float32(32767.0 / peak if peak else 0.0)).astype(
        np.int16
    )
    return scaled


def _room_spectrum(path: str, crop_samples: int) -> tuple[npt.NDArray[np.complex64], int]:
    room = read_whole(path)
    delay = int(np.argmax(np.abs(room)))
    if room[delay] == 0.0:
        raise AudioError(f"{path} is silent: it is no impulse response.")
    room = unit_energy(room[: delay + int(_MAX_ROOM_SECONDS * SAMPLE_RATE)])
    return fft.rfft(room, fft_length(crop_samples, len(room))), delay
