"""Recordings as the package hears them: 16 kHz, mono, 16 bits, from any file that libsndfile reads.

The only place in the package that opens an audio file. A plain WAV or FLAC file (16 kHz, mono, 16 bits) gives
its very samples. Any other is averaged over channels, converted to 16 kHz and rounded to 16 bits, full scale
for full scale; a crop has the same samples as the same place of the whole (of lossy files nearly so: their
decoders remember what came before).
"""

import mmap
import os
import struct
from abc import ABC, abstractmethod
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # it loads scipy.signal, which takes a second, when that is used
import soundfile

Samples = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz, of every waveform in the package
FULL_SCALE = 32768.0  # of int16 samples; 1 in waveforms

# What libsndfile reads and people have.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".caf", ".voc"),
)
UNREAD_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm")  # sound that libsndfile does not read

_HALF_TAPS = 32  # filter half length in samples of the slower rate; more is sharper and slower
_LOUDEST = 10.0  # a float file above this is in another unit, or damaged: full scale is 1
_HEADER_BYTES = 4096  # the samples of a plain WAV file begin within them, or libsndfile reads it
_LARGEST_DATA = 0x7FFF_FF00  # bytes; streaming writers leave larger numbers, or 0, for "unknown"


class AudioError(Exception):
    """A recording that cannot be used; the message names the file and the cause."""


class Recording(ABC):
    """An open recording; a context manager."""

    path: str  # for messages
    num_samples: int  # at 16 kHz

    @abstractmethod
    def _read(self, start: int, count: int) -> Samples:
        """Return samples that are there; the array may be read-only."""

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - most recordings have something to close
        """Close the recording; reading afterwards is an error."""

    def mapped(self) -> Samples | None:
        """Return all samples, valid for good, if they lie in a file that can be mapped; else None."""
        return None

    def read_int16(self, start: int, count: int) -> Samples:
        """Return samples start .. start + count, (count,), perhaps read-only; one too short is repeated.

        Raises AudioError for a piece that cannot be decoded.
        """
        if start < 0 or count <= 0:
            raise ValueError(
                f"A crop starts at 0 or later and is not empty: got start={start}, count={count}."
            )
        available = min(count, self.num_samples - start)
        if available <= 0:
            raise ValueError(f"{self.path} has {self.num_samples} samples: none at {start}.")
        piece = self._read(start, available)
        return piece if available == count else np.resize(piece, count)

    def read(self, start: int, count: int) -> Waveform:
        """Return what `read_int16` does as a waveform of full scale 1."""
        return to_waveform(self.read_int16(start, count))

    def read_rir(self) -> Samples:
        """Return all samples of an impulse response."""
        return self.read_int16(0, self.num_samples)


class AudioFile(Recording):
    """An open audio file.

    Raises AudioError, here and in its methods, for a file that is missing, empty, no audio, truncated, not
    finite, or in floats that are far above full scale.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file: PlainWav | _Decoder = PlainWav.open(self.path) or _Decoder(self.path)
        self.num_samples = self._file.num_samples

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._file.close()

    def _read(self, start: int, count: int) -> Samples:
        try:
            return self._file.read(start, count)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {_cause(error)}.") from error

    def mapped(self) -> Samples | None:
        """Return all samples of a plain WAV file, mapped into memory; None for any other."""
        return self._file.mapped() if isinstance(self._file, PlainWav) else None

    def read_rir(self) -> Samples:
        """Return all samples of an impulse response; unless it is plain, at the level that uses all bits.

        The level of a rir means nothing, and files of floats may hold any.
        """
        if not isinstance(self._file, _Decoder) or self._file.is_plain:
            return self.read_int16(0, self.num_samples)
        rir = self._file.read_float(0, self.num_samples)
        peak = np.abs(rir).max()
        return to_int16(rir / peak) if peak > 0 else np.zeros(len(rir), dtype=np.int16)


class PlainWav:
    """An open WAV file of 16 bits, 16 kHz, mono: crops are read by their place in it, without libsndfile."""

    def __init__(self, descriptor: int, first_byte: int, num_samples: int) -> None:
        self.num_samples = num_samples
        self._descriptor, self._first_byte = descriptor, first_byte

    @classmethod
    def open(cls, path: str) -> "PlainWav | None":
        """Open a file, or return None if it is no plain WAV file (or can't be opened: others say why)."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            place = _find_samples(os.pread(descriptor, _HEADER_BYTES, 0))
            if place is not None:
                first_byte, num_bytes = place
                if os.fstat(descriptor).st_size >= first_byte + num_bytes >= first_byte + 2:
                    return cls(descriptor, first_byte, num_bytes // 2)
        except OSError:  # a folder, a failing disk
            pass
        os.close(descriptor)
        return None

    def read(self, start: int, count: int) -> Samples:
        """Return samples start .. start + count, which must be there; raises OSError."""
        data = os.pread(self._descriptor, 2 * count, self._first_byte + 2 * start)
        if len(data) < 2 * count:
            raise OSError("the file became shorter while it was read")
        return np.frombuffer(data, dtype="<i2").astype(np.int16, copy=False)

    def mapped(self) -> Samples:
        """Return all samples without reading them; they stay valid when the file is closed."""
        memory = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        samples = np.frombuffer(memory, dtype="<i2", count=self.num_samples, offset=self._first_byte)
        return samples.astype(np.int16, copy=False)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Decoder:
    """A file that libsndfile decodes, at 16 kHz and mono."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = _open(path)
        if missing := _missing_bytes(path):
            self.close()
            raise AudioError(f"{path} is cut off: {missing} bytes are missing of what its header promises.")
        if self._file.frames <= 0:
            self.close()
            raise AudioError(f"{path} has an audio header but no samples.")
        ratio = Fraction(SAMPLE_RATE, self._file.samplerate)
        self._up, self._down = ratio.numerator, ratio.denominator
        self.num_samples = -(-self._file.frames * self._up // self._down)
        self._is_16_bit = self._file.subtype == "PCM_16"
        self.is_plain = self._is_16_bit and ratio == 1 and self._file.channels == 1

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, count: int) -> Samples:
        if self.is_plain:
            return self._frames(start, count)
        waveform = self.read_float(start, count)
        peak = float(np.max(np.abs(waveform)))
        if peak > _LOUDEST:
            raise AudioError(
                f"{self.path} contains values up to {peak:.3g} where full scale is 1: it is damaged or in "
                "another unit; write it as 16-bit PCM."
            )
        rounded = np.rint(waveform * np.float32(FULL_SCALE))
        samples: Samples = np.clip(rounded, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        return samples

    def read_float(self, start: int, count: int) -> Waveform:
        up, down = self._up, self._down
        if up == down == 1:
            return self._mono(start, count)
        # `down` frames become exactly `up` samples, so a cut at a multiple of `down` keeps the sample grid.
        margin = -(-(_HALF_TAPS + 1) * max(up, down) // (up * down)) + 1
        first = max(0, start // up - margin)
        last = -(-(start + count) // up) + margin
        frames = min(last * down, self._file.frames) - first * down
        converted = scipy.signal.resample_poly(
            self._mono(first * down, frames), up, down, window=low_pass(up, down)
        )
        offset = start - first * up
        return np.ascontiguousarray(converted[offset : offset + count], dtype=np.float32)

    def _mono(self, start: int, count: int) -> Waveform:
        frames = self._frames(start, count)
        samples = to_waveform(frames) if self._is_16_bit else frames
        if samples.ndim == 2:
            samples = samples.mean(axis=1, dtype=np.float32)
        # NaN and infinity both come through a maximum.
        if not self._is_16_bit and not np.isfinite(np.max(np.abs(samples))):
            raise AudioError(f"{self.path} contains values that are not finite (NaN or infinity).")
        return samples

    def _frames(self, start: int, count: int) -> npt.NDArray[Any]:
        # int16 is half the time of float32 in libsndfile, and exact for 16-bit files.
        try:
            self._file.seek(start)
            frames: npt.NDArray[Any] = self._file.read(count, dtype="int16" if self._is_16_bit else "float32")
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            raise AudioError(f"{self.path} cannot be decoded at frame {start}: {_cause(error)}.") from error
        if len(frames) < count:
            raise AudioError(
                f"{self.path} is truncated: its header promises {self._file.frames} frames, "
                f"the data ends at {start + len(frames)}."
            )
        return frames


def read_whole(path: str | os.PathLike[str]) -> Waveform:
    """Return all samples of a file, (T,), full scale 1; raises AudioError."""
    with AudioFile(path) as file:
        return file.read(0, file.num_samples)


def wrap_to_length(waveform: Waveform, count: int) -> Waveform:
    """Repeat a waveform (T,) from its start until it has `count` samples, or cut it to them."""
    return np.resize(waveform, count)


def to_waveform(samples: npt.NDArray[Any]) -> Waveform:
    """Return int16 samples as float32 of full scale 1, exactly."""
    waveform: Waveform = samples.astype(np.float32)
    waveform *= np.float32(1 / FULL_SCALE)
    return waveform


def to_int16(waveform: Waveform, full_scale: float = 1.0) -> Samples:
    """Round a waveform to int16; one that exceeds full scale is made quieter, not clipped."""
    samples = np.empty(len(waveform), dtype=np.int16)
    round_to_int16(np.array(waveform), samples, full_scale)
    return samples


def round_to_int16(waveform: Waveform, samples: Samples, full_scale: float = 1.0) -> None:
    """Do as `to_int16` into `samples`; the waveform is used up."""
    highest, lowest = float(waveform.max(initial=0.0)), float(waveform.min(initial=0.0))
    unit = FULL_SCALE / full_scale
    is_too_loud = highest * unit >= FULL_SCALE - 0.5 or lowest * unit < -FULL_SCALE - 0.5
    scale = (FULL_SCALE - 1) / max(highest, -lowest) if is_too_loud else unit
    if scale != 1.0:
        waveform *= np.float32(scale)
    samples[:] = np.rint(waveform, out=waveform)


def find_audio_files(folder: str | os.PathLike[str], suffixes: tuple[str, ...] = AUDIO_SUFFIXES) -> list[str]:
    """Return the paths of all recordings below a folder, sorted; hidden files and folders are left out.

    Links are followed, but every folder is entered once, under its own name if it has one here: a loop of
    links ends, and nothing is found twice. Raises FileNotFoundError if the folder does not exist, OSError for
    one that can't be read.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds the recordings.")
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    folders, links = [os.fspath(folder)], list[str]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    found.append(entry.path)
    return sorted(found)


def find_audio(folder: str | os.PathLike[str]) -> list[str]:
    """Return what `find_audio_files` finds; nothing if the folder does not exist."""
    return find_audio_files(folder) if os.path.isdir(folder) else []


def _open(path: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
        place = Path(path)
        if not place.exists():
            raise AudioError(f"{path} does not exist.") from error
        if place.is_file() and place.stat().st_size == 0:
            raise AudioError(f"{path} is an empty file (0 bytes).") from error
        raise AudioError(f"{path} is not audio that libsndfile can read: {_cause(error)}.") from error


def _cause(error: Exception) -> str:
    text = str(getattr(error, "error_string", "") or error)
    return text.strip().rstrip(".")


def _missing_bytes(path: str) -> int:
    """Return how many bytes a WAV file lacks of what its header promises; libsndfile would not tell.

    0 for any other file, and for headers that promise nothing: some writers count their own eight bytes too,
    and those that write into a pipe promise 2 GB or more.
    """
    try:
        with open(path, "rb") as file:
            kind, length = struct.unpack("<4sI", file.read(8))
            missing = int(length) + 8 - os.fstat(file.fileno()).st_size
    except (OSError, struct.error):
        return 0
    return missing if kind == b"RIFF" and missing > 16 and length < 2**31 - 2**16 else 0


def _find_samples(header: bytes) -> tuple[int, int] | None:
    # First byte and number of bytes of the samples; None for any other kind of file.
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return None
    place, is_plain = 12, False
    while place + 8 <= len(header):
        name, size = struct.unpack_from("<4sI", header, place)
        place += 8
        if name == b"data":
            return (place, size) if is_plain and 0 < size <= _LARGEST_DATA else None
        if name == b"fmt ":
            if size < 16 or place + 16 > len(header):
                return None
            tag, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", header, place)
            is_plain = (tag, channels, rate, block_bytes, bits) == (1, 1, SAMPLE_RATE, 2, 16)
        place += size + size % 2
    return None


@lru_cache(maxsize=64)
def low_pass(up: int, down: int) -> npt.NDArray[np.float32]:
    """Return the filter (taps,) of a conversion by up / down, at `up` times the rate of the input.

    Kaiser 8.6: about 86 dB below; the stop band begins at the lower of both Nyquist frequencies.
    """
    slower = max(up, down)
    taps = scipy.signal.firwin(2 * _HALF_TAPS * slower + 1, 0.92 / slower, window=("kaiser", 8.6))
    return np.asarray(taps, dtype=np.float32)
