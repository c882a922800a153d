"""Recordings as the package hears them: 16 kHz, mono, 16 bits, from any file that libsndfile reads.

A plain WAV or FLAC file (16 kHz, mono, 16 bits) gives its very samples. Any other is averaged over channels,
converted to 16 kHz and rounded to 16 bits, full scale for full scale. A crop has the samples that the whole
has at its place (of lossy files nearly so: their decoders remember what came before).
"""

import contextlib
import math
import os
import struct
from abc import abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads scipy.signal, which takes a second, when it is used
import soundfile

from sslsv.ops import SAMPLE_RATE as SAMPLE_RATE

Samples = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]

FULL_SCALE = 32768.0  # of int16 samples; 1 in waveforms

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".caf", ".voc"),
)

_HALF_TAPS = 32  # Half the length of the filter, in samples of the slower rate; more is sharper and slower.
_LOUDEST = 10.0  # Files of floats with such a peak are damaged or in another unit: full scale is 1.
_HEADER_BYTES = 4096  # the samples of a plain WAV file begin within them, or libsndfile reads it


class AudioError(Exception):
    """Report a recording that cannot be used; the message names the file and the cause."""


class Recording(contextlib.AbstractContextManager["Recording"]):
    """Read crops of an open recording."""

    path: str  # for messages
    num_samples: int  # at 16 kHz

    @abstractmethod
    def _read(self, start: int, count: int) -> Samples:
        """Return samples that are there; the array may be read-only."""

    def close(self) -> None:  # noqa: B027 - a packed recording has nothing to close
        """Close the recording; reading afterwards is an error."""

    def __exit__(self, *_: object) -> None:
        self.close()

    def mapped(self) -> Samples | None:
        """Return all samples, mapped into memory until they are deleted; None for a file that is decoded."""
        return None

    def read_int16(self, start: int, count: int) -> Samples:
        """Return `count` samples from `start` on, perhaps read-only; what is too short is repeated.

        Raises AudioError for a piece that cannot be decoded.
        """
        available = min(count, self.num_samples - start)
        piece = self._read(start, available)
        return piece if available == count else np.resize(piece, count)

    def read_whole(self) -> Waveform:
        """Return all samples as a waveform (T,) of full scale 1."""
        return to_waveform(self.read_int16(0, self.num_samples))

    def read_rir(self) -> Samples:
        """Return all samples of an impulse response, whose level means nothing; AudioError for silence."""
        rir = self._read_any_level()
        if not rir.any():
            raise AudioError(f"{self.path} is silent: it is no impulse response.")
        return rir

    def _read_any_level(self) -> Samples:
        return self.read_int16(0, self.num_samples)


def open_audio(path: str | os.PathLike[str]) -> Recording:
    """Open an audio file.

    Raises AudioError, here and when it is read, for a file that is missing, empty, no audio, truncated, not
    finite, or in floats that are far above full scale.
    """
    name = os.fspath(path)
    with contextlib.suppress(OSError):  # the decoder says why a file can't be opened
        file = open(name, "rb", buffering=0)  # noqa: SIM115
        is_plain, first_byte, num_bytes = _find_samples(os.pread(file.fileno(), _HEADER_BYTES, 0))
        missing = first_byte + num_bytes - os.fstat(file.fileno()).st_size
        if is_plain and num_bytes >= 2 and missing <= 0:
            return _PlainWav(name, file, first_byte, num_bytes // 2)
        file.close()
        # libsndfile would not tell. Programs that write into a pipe can't know the size: they promise 2 GB.
        if missing > 0 and num_bytes < 2**31 - 2**16:
            raise AudioError(f"{name} is cut off: {missing} bytes are missing of what its header promises.")
    return _DecodedFile(name)


class _PlainWav(Recording):
    # A WAV file of 16 bits, 16 kHz, mono: crops are read by their place in it, without libsndfile.

    def __init__(self, path: str, file: Any, first_byte: int, num_samples: int) -> None:
        self.path, self.num_samples = path, num_samples
        self._file, self._first_byte = file, first_byte

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int, count: int) -> Samples:
        try:
            data = os.pread(self._file.fileno(), 2 * count, self._first_byte + 2 * start)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error}.") from error
        if len(data) < 2 * count:
            raise AudioError(f"{self.path} became shorter while it was read.")
        return np.frombuffer(data, dtype=np.int16)

    def mapped(self) -> Samples:
        return np.memmap(self._file, np.int16, "r", self._first_byte, self.num_samples).view(np.ndarray)


class _DecodedFile(Recording):
    # Any file that libsndfile decodes.

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
            if not os.path.exists(path):
                raise AudioError(f"{path} does not exist.") from error
            raise AudioError(f"{path} ({os.path.getsize(path)} bytes) is not audio: {error}") from error
        if self._file.frames <= 0:
            self.close()
            raise AudioError(f"{path} has an audio header but no samples.")
        ratio = Fraction(SAMPLE_RATE, self._file.samplerate)
        self._up, self._down = ratio.numerator, ratio.denominator
        self.num_samples = -(-self._file.frames * self._up // self._down)
        self._is_16_bit = self._file.subtype == "PCM_16"
        self._is_plain = self._is_16_bit and ratio == 1 and self._file.channels == 1

    def close(self) -> None:
        self._file.close()

    def _read_any_level(self) -> Samples:
        if self._is_plain:
            return super()._read_any_level()
        rir = self._convert(0, self.num_samples, math.inf)
        peak = np.abs(rir).max()
        return to_int16(rir / peak if peak > 0 else rir)  # uses all bits

    def _read(self, start: int, count: int) -> Samples:
        if self._is_plain:
            return self._decode(start, count)
        rounded = np.rint(self._convert(start, count, _LOUDEST) * np.float32(FULL_SCALE))
        samples: Samples = np.clip(rounded, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        return samples

    def _convert(self, start: int, count: int, loudest: float) -> Waveform:
        up, down = self._up, self._down
        if up == down == 1:
            waveform = self._mono(start, count)
        else:
            # `down` frames become exactly `up` samples: cuts at multiples of `down` keep the sample grid.
            margin = -(-(_HALF_TAPS + 1) * max(up, down) // (up * down)) + 1
            first = max(0, start // up - margin)
            last = -(-(start + count) // up) + margin
            frames = self._mono(first * down, min(last * down, self._file.frames) - first * down)
            converted = scipy.signal.resample_poly(frames, up, down, window=low_pass(up, down))
            offset = start - first * up
            waveform = np.ascontiguousarray(converted[offset : offset + count], dtype=np.float32)
        peak = float(np.max(np.abs(waveform)))
        if not peak < loudest:  # nor is NaN
            raise AudioError(
                f"{self.path} contains values up to {peak:.3g} where full scale is 1: it is damaged or in "
                "another unit; write it as 16-bit PCM."
            )
        return waveform

    def _mono(self, start: int, count: int) -> Waveform:
        frames = self._decode(start, count)
        samples = to_waveform(frames) if self._is_16_bit else frames
        return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)

    def _decode(self, start: int, count: int) -> npt.NDArray[Any]:
        # int16 is half the time of float32 in libsndfile, and exact for 16-bit files.
        try:
            self._file.seek(start)
            frames: npt.NDArray[Any] = self._file.read(count, dtype="int16" if self._is_16_bit else "float32")
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            raise AudioError(f"{self.path} cannot be decoded at frame {start}: {error}") from error
        if len(frames) < count:
            raise AudioError(
                f"{self.path} is truncated: its header promises {self._file.frames} frames, "
                f"the data ends at {start + len(frames)}."
            )
        return frames


def read_whole(path: str | os.PathLike[str]) -> Waveform:
    """Return all samples of a file, (T,), full scale 1; raises AudioError."""
    with open_audio(path) as recording:
        return recording.read_whole()


def to_waveform(samples: npt.NDArray[Any]) -> Waveform:
    """Return int16 samples as float32 of full scale 1, exactly."""
    waveform: Waveform = samples.astype(np.float32)
    waveform *= np.float32(1 / FULL_SCALE)
    return waveform


def to_int16(waveform: Waveform) -> Samples:
    """Round a waveform of full scale 1 to int16; one that exceeds it is made quieter, not clipped."""
    samples = np.empty(len(waveform), dtype=np.int16)
    round_to_int16(waveform * np.float32(FULL_SCALE), samples)
    return samples


def round_to_int16(waveform: Waveform, samples: Samples) -> None:
    """Round a waveform of full scale 32768 into `samples`, quieter if it exceeds that; overwrites it too."""
    highest, lowest = float(waveform.max(initial=0.0)), float(waveform.min(initial=0.0))
    if highest >= FULL_SCALE - 0.5 or lowest < -FULL_SCALE - 0.5:
        waveform *= np.float32((FULL_SCALE - 1) / max(highest, -lowest))
    samples[:] = np.rint(waveform, out=waveform)


def find_audio_files(folder: str | os.PathLike[str], suffixes: tuple[str, ...] = AUDIO_SUFFIXES) -> list[str]:
    """Return the paths of all recordings below a folder, sorted; hidden files and folders are left out.

    Links are followed, but every folder is entered once: a loop of links ends. Raises FileNotFoundError if
    the folder does not exist, OSError for one that can't be read, ValueError for a name that is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds the recordings.")
    found: list[str] = []
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (target := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(target)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(place, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    check_names(found)
    return sorted(found)


def check_names(paths: Iterable[str]) -> None:
    """Raise ValueError for the first path that is not UTF-8."""
    if odd := next((path for path in paths if not is_utf8(path)), None):
        raise ValueError(
            f"{os.fsencode(odd)!r} has a name that is not UTF-8, which lists, tables and reports can't hold: "
            "rename it, for a whole folder by `convmv -f LATIN1 -t UTF-8 -r --notest FOLDER`."
        )


def is_utf8(name: str) -> bool:
    """Tell whether a name of a file is text in UTF-8; file systems allow any bytes."""
    return name.isascii() or not any("\ud800" <= each <= "\udfff" for each in name)


def _find_samples(header: bytes) -> tuple[bool, int, int]:
    # Returns whether a WAV file is plain, and first byte and number of bytes of its samples; else zeros.
    is_wav = header[:4] == b"RIFF" and header[8:12] == b"WAVE"
    place, is_plain = 12, False
    while is_wav and place + 8 <= len(header):
        name, size = struct.unpack_from("<4sI", header, place)
        place += 8
        if name == b"data":
            return is_plain, place, size
        if name == b"fmt " and size >= 16 and place + 16 <= len(header):
            tag, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", header, place)
            is_plain = (tag, channels, rate, block_bytes, bits) == (1, 1, SAMPLE_RATE, 2, 16)
        place += size + size % 2
    return False, 0, 0


@lru_cache(maxsize=64)
def low_pass(up: int, down: int) -> npt.NDArray[np.float32]:
    """Return the filter (taps,) of a conversion by up / down, at `up` times the rate of the input.

    Kaiser 8.6: about 86 dB below; the stop band begins at the lower of both Nyquist frequencies.
    """
    slower = max(up, down)
    taps = scipy.signal.firwin(2 * _HALF_TAPS * slower + 1, 0.92 / slower, window=("kaiser", 8.6))
    return np.asarray(taps, dtype=np.float32)
