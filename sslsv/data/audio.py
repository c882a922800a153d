"""Audio files: any format, rate and channel count that libsndfile reads, as 16 kHz mono float32.

The only place in the package that opens a recording. Crops are read by seeking, never by decoding the whole
file.
"""

import os
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import firwin, resample_poly

SAMPLE_RATE = 16_000  # Hz, of every waveform in the package

Waveform = npt.NDArray[np.float32]

_HALF_TAPS = 32  # filter half length in samples of the slower rate; more is sharper and slower
_ABSURD_PEAK = 1e6  # a float file above this is damaged, not loud: full scale is 1

_AUDIO_SUFFIXES = {
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".au",
    ".sph",
    ".caf",
    ".w64",
    ".rf64",
}


class AudioError(Exception):
    """A recording that cannot be used; the message names the file and the cause."""


class AudioFile:
    """An open recording, seen as 16 kHz mono samples of full scale 1; a context manager.

    `speed` plays it faster (above 1) or slower: tempo and pitch change together, as a tape's would, by
    reading the file as if it had been sampled at `speed` times its rate. `num_samples` is the length at 16
    kHz and that speed. Raises AudioError, here and in `read`, for a file that is missing, empty, no audio,
    truncated or not finite.
    """

    def __init__(self, path: str | os.PathLike[str], speed: Fraction = Fraction(1)) -> None:
        self.path = os.fspath(path)
        self._file = _open(self.path)
        frames, rate = self._file.frames, self._file.samplerate
        if frames <= 0:
            self.close()
            raise AudioError(f"{self.path} has an audio header but no samples.")
        ratio = Fraction(SAMPLE_RATE) / (rate * speed)
        self._up, self._down = ratio.numerator, ratio.denominator
        self.num_samples = -(-frames * self._up // self._down)

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._file.close()

    def read(self, start: int, count: int) -> Waveform:
        """Return samples start .. start + count at 16 kHz, (count,); a file that is too short is repeated.

        A crop of a file at another rate equals the same crop of the whole converted file: the filter's reach
        is read on both sides and cut away afterwards.
        """
        if start < 0 or count <= 0:
            raise ValueError(
                f"A crop starts at 0 or later and is not empty: got start={start}, count={count}."
            )
        available = min(count, self.num_samples - start)
        if available <= 0:
            raise ValueError(f"{self.path} has {self.num_samples} samples: none at {start}.")
        crop = self._read_converted(start, available)
        return crop if available == count else wrap_to_length(crop, count)

    def _read_converted(self, start: int, count: int) -> Waveform:
        up, down = self._up, self._down
        if up == down == 1:
            return self._read_frames(start, count)
        # `down` frames become exactly `up` samples, so a cut at a multiple of `down` keeps the sample grid.
        margin = -(-(_HALF_TAPS + 1) * max(up, down) // (up * down)) + 1
        first = max(0, start // up - margin)
        last = -(-(start + count) // up) + margin
        frames = min(last * down, self._file.frames) - first * down
        block = self._read_frames(first * down, frames)
        converted = resample_poly(block, up, down, window=_low_pass(up, down))
        offset = start - first * up
        return np.ascontiguousarray(converted[offset : offset + count], dtype=np.float32)

    def _read_frames(self, start: int, count: int) -> Waveform:
        # int16 is half the time of float32 in libsndfile, and exact for 16-bit files.
        is_int16 = self._file.subtype == "PCM_16"
        try:
            self._file.seek(start)
            frames = self._file.read(count, dtype="int16" if is_int16 else "float32")
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            raise AudioError(f"{self.path} cannot be decoded at frame {start}: {_cause(error)}.") from error
        if len(frames) < count:
            raise AudioError(
                f"{self.path} is truncated: its header promises {self._file.frames} frames, "
                f"the data ends at {start + len(frames)}."
            )
        samples: Waveform = frames.astype(np.float32)
        if is_int16:
            samples *= np.float32(1 / 32768)
        if samples.ndim == 2:
            samples = samples.mean(axis=1, dtype=np.float32)
        if not is_int16:
            _check_values(self.path, samples)
        return samples


def read_crop(path: str | os.PathLike[str], start: int, count: int) -> Waveform:
    """Return 16 kHz samples start .. start + count of a file, shape (count,); raises AudioError."""
    with AudioFile(path) as file:
        return file.read(start, count)


def read_whole(path: str | os.PathLike[str]) -> Waveform:
    """Return all samples of a file at 16 kHz, shape (T,); raises AudioError."""
    with AudioFile(path) as file:
        return file.read(0, file.num_samples)


def wrap_to_length(waveform: Waveform, count: int) -> Waveform:
    """Repeat a waveform (T,) from its start until it has `count` samples, or cut it to them."""
    repeated: Waveform = np.resize(waveform, count)
    return repeated


def to_int16(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Round a float waveform of full scale 1 to int16; one that exceeds it is made quieter, not clipped."""
    peak = float(np.max(np.abs(waveform), initial=0.0))
    scale = 32768.0 if peak <= 1.0 else 32767.0 / peak
    rounded: npt.NDArray[np.int16] = np.clip(np.rint(waveform * np.float32(scale)), -32768, 32767).astype(
        np.int16
    )
    return rounded


def find_audio(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted paths of all audio files below a folder, by suffix; empty if it does not exist."""
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in _AUDIO_SUFFIXES
    ]
    return sorted(found)


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


def _check_values(path: str, samples: Waveform) -> None:
    peak = float(np.max(np.abs(samples)))  # NaN and infinity both come through a maximum
    if not np.isfinite(peak):
        raise AudioError(f"{path} contains values that are not finite (NaN or infinity).")
    if peak > _ABSURD_PEAK:
        raise AudioError(f"{path} contains values up to {peak:.3g} where full scale is 1: it is damaged.")


@lru_cache(maxsize=64)
def _low_pass(up: int, down: int) -> npt.NDArray[np.float32]:
    # Kaiser 8.6: about 86 dB below; the stop band begins at the lower of both Nyquist frequencies.
    slower = max(up, down)
    taps = firwin(2 * _HALF_TAPS * slower + 1, 0.92 / slower, window=("kaiser", 8.6))
    return np.asarray(taps, dtype=np.float32)
