"""Read recordings as 16 kHz, mono, 16-bit samples from any file that libsndfile or FFmpeg decodes.

The samples of a plain WAV or FLAC file (16 kHz, mono, 16 bits) are read unchanged. Other files are averaged
over channels, resampled to 16 kHz and rounded to 16 bits; full scale stays full scale. A crop equals the same
part of the entire recording (mp3: up to rounding, Opus: up to a thousandth of full scale). FFmpeg decodes
files that libsndfile can't read or reads wrongly (AAC, WMA, AMR, GSM, mp3 without its length in the header
...). These files are decoded in full for every crop.
"""

import contextlib
import io
import math
import os
import re
import struct
from abc import abstractmethod
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # imports scipy.signal, which takes a second, on first use
import soundfile

from sslsv.data.audio_files import COMPRESSED_SUFFIXES
from sslsv.ops import SAMPLE_RATE as SAMPLE_RATE

Samples = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]

FULL_SCALE = 32768.0  # full scale of int16 samples; waveforms have full scale 1

_HALF_TAPS = 32  # half the filter length, in samples at the lower rate; longer is sharper but slower
_MAX_PEAK = 10.0  # A float file with a peak this high is damaged or in another unit (full scale is 1).
_HEADER_BYTES = 4096  # searched for the samples of a plain WAV file; libsndfile reads longer headers
# Without the frames before a crop, these decoders get its first samples wrong, by up to full scale.
_LOSSY, _LEAD_FRAMES = ("MP3", "OGG"), 4096
# In the last page of an Ogg Vorbis file, libsndfile's seeks are off by some hundred frames. That page is
# shorter than this, so crops near the end are decoded from a position before the page.
_VORBIS_END_FRAMES = 2**18
_MP3_LENGTHS = (b"Xing", b"Info", b"VBRI")  # headers in the first frame of an mp3 that hold its length
# FFmpeg guesses the length of these formats from the bit rate, so it can't show that a file is truncated.
_GUESSED_LENGTH = ("aac", "amr", "amrnb", "amrwb", "ac3", "mpegts", "mp3")
_MISSING_SECONDS = 0.2  # tolerated difference from the length in the header; an AAC frame is 64 ms at 16 kHz
# The formats exclude playlists, whose entries FFmpeg would open: other files, and URLs.
_FFMPEG_FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,asf,au,avi,caf,flac,matroska,mov,mp3,mpegts,ogg,w64,wav"


class AudioError(Exception):
    """Report a recording that cannot be used; the message names the file and the cause."""


class Recording(contextlib.AbstractContextManager["Recording"]):
    """Read crops of an open recording."""

    path: str  # shown in messages
    num_samples: int  # at 16 kHz
    file_rate: int = SAMPLE_RATE  # samples per second in the file itself
    is_slow = False  # True if reading a crop takes about ten times as long as from FLAC, or longer

    @abstractmethod
    def _read(self, start: int, count: int) -> Samples:
        """Return `count` samples within the recording; the array may be read-only."""

    def close(self) -> None:  # noqa: B027 - a packed recording has nothing to close
        """Close the recording; reading afterwards is an error."""

    def __exit__(self, *_: object) -> None:
        self.close()

    def mapped(self) -> Samples | None:
        """Return all samples as a memory map, which outlives `close`; None if they can't be mapped."""
        return None

    def read_int16(self, start: int, count: int) -> Samples:
        """Return `count` samples from `start` on, possibly read-only; a piece that is too short is repeated.

        Raises AudioError if the samples cannot be decoded.
        """
        available = min(count, self.num_samples - start)
        piece = self._read(start, available)
        return piece if available == count else np.resize(piece, count)

    def read_whole(self) -> Waveform:
        """Return all samples as a waveform (T,) of full scale 1."""
        return to_waveform(self.read_int16(0, self.num_samples))

    def read_rir(self) -> Samples:
        """Return all samples of an impulse response, at an arbitrary level; raises AudioError for silence."""
        rir = self._read_any_level()
        if not rir.any():
            raise AudioError(f"{self.path} is silent: it is not an impulse response.")
        return rir

    def _read_any_level(self) -> Samples:
        return self.read_int16(0, self.num_samples)


def open_audio(path: str | os.PathLike[str]) -> Recording:
    """Open an audio file.

    Raises AudioError, here or when samples are read, for a file that is missing, empty, not audio, truncated,
    not finite or far above full scale. Truncation is detected in WAV, FLAC, SPH, mp3 with its length in the
    header, m4a, mp4, webm and wma; any other truncated file is read as a shorter recording.
    """
    name, header = os.fspath(path), b""
    with contextlib.suppress(OSError):  # the decoder below reports why a file can't be opened
        file = open(name, "rb", buffering=0)  # noqa: SIM115
        header = os.pread(file.fileno(), _HEADER_BYTES, 0)
        is_plain, first_byte, num_bytes = _find_samples(header)
        missing = first_byte + num_bytes - os.fstat(file.fileno()).st_size
        if is_plain and num_bytes >= 2 and missing <= 0:
            return _PlainWav(name, file, first_byte, num_bytes // 2)
        if header[:3] == b"ID3":  # a tag, possibly with pictures; each of its four size bytes holds 7 bits
            size = sum(byte << 7 * (3 - i) for i, byte in enumerate(header[6:10]))
            header = os.pread(file.fileno(), _HEADER_BYTES, 10 + size)
        file.close()
        # libsndfile would not report this. Programs that write into a pipe claim 2 GB, as they lack the size.
        if missing > 0 and num_bytes < 2**31 - 2**16:
            raise AudioError(f"{name} is cut off: {missing} bytes are missing, according to its header.")
    try:
        decoded = soundfile.SoundFile(name)
        # libsndfile returns the encoder delay of an mp3 in a WAV file as sound, guesses the length of an mp3
        # without one in its header, knows no length of FLAC from a pipe, and can't seek in GSM 6.10 or G.721.
        is_misread = decoded.format == "WAV" and decoded.subtype.startswith("MPEG")
        is_misread |= decoded.format == "MP3" and not any(mark in header for mark in _MP3_LENGTHS)
        if is_misread or decoded.frames >= 2**62 or not decoded.seekable():
            return _FFmpegFile(name, "")
        return _SndFile(name, decoded)
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
        return _FFmpegFile(name, getattr(error, "error_string", str(error)))


class _PlainWav(Recording):
    # A WAV file with 16 bits, 16 kHz, mono. Crops are read at their byte offset, without libsndfile.

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


class _SndFile(Recording):
    # Any file that libsndfile decodes.

    def __init__(self, path: str, file: Any) -> None:
        self.path, self._file, self.file_rate = path, file, file.samplerate
        if file.frames <= 0:
            self.close()
            raise AudioError(f"{path} has an audio header but no samples.")
        self._up, self._down = Fraction(SAMPLE_RATE, file.samplerate).as_integer_ratio()
        self.num_samples = -(-file.frames * self._up // self._down)
        self._is_16_bit = file.subtype == "PCM_16"
        self._is_plain = self._is_16_bit and self._up == self._down and file.channels == 1
        self.is_slow = file.subtype == "OPUS"
        self._lead_frames = _LEAD_FRAMES if file.format in _LOSSY else 0
        self._last_exact_seek = file.frames - (_VORBIS_END_FRAMES if file.subtype == "VORBIS" else 0)

    def close(self) -> None:
        self._file.close()

    def _read_any_level(self) -> Samples:
        if self._is_plain:
            return super()._read_any_level()
        rir = self._convert(0, self.num_samples, math.inf)
        peak = np.abs(rir).max()
        return to_int16(rir / peak if peak > 0 else rir)  # scaled to use all 16 bits

    def _read(self, start: int, count: int) -> Samples:
        if self._is_plain:
            return self._decode(start, count)
        rounded = np.rint(self._convert(start, count, _MAX_PEAK) * np.float32(FULL_SCALE))
        samples: Samples = np.clip(rounded, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        return samples

    def _convert(self, start: int, count: int, max_peak: float) -> Waveform:
        up, down = self._up, self._down
        if up == down == 1:
            waveform = self._mono(start, count)
        else:
            # Each block of `down` frames becomes `up` samples exactly; margin, first and last count blocks.
            margin = -(-(_HALF_TAPS + 1) * max(up, down) // (up * down)) + 1
            first = max(0, start // up - margin)
            last = -(-(start + count) // up) + margin
            frames = self._mono(first * down, min(last * down, self._file.frames) - first * down)
            converted = scipy.signal.resample_poly(frames, up, down, window=low_pass(up, down))
            offset = start - first * up
            waveform = np.ascontiguousarray(converted[offset : offset + count], dtype=np.float32)
        peak = float(np.max(np.abs(waveform)))
        if not peak < max_peak:  # also true for NaN
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
        # libsndfile reads int16 in half the time of float32, and exactly for 16-bit files.
        lead = min(start, max(self._lead_frames, start - self._last_exact_seek))
        dtype = "int16" if self._is_16_bit else "float32"
        try:
            self._file.seek(start - lead)
            frames: npt.NDArray[Any] = self._file.read(lead + count, dtype=dtype)[lead:]
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            raise AudioError(f"{self.path} cannot be decoded at frame {start}: {error}") from error
        if len(frames) < count:
            raise AudioError(
                f"{self.path} is truncated: it has {start + len(frames)} of {self._file.frames} frames."
            )
        return frames


class _FFmpegFile(Recording):
    # A file that FFmpeg decodes in full. `reason`: why libsndfile can't read it, "" if it reads it wrongly.

    is_slow = True

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                content = file.read()
            self._samples, self.file_rate = decode(content)
        except FileNotFoundError as error:
            raise AudioError(f"{path} does not exist.") from error
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror or error}.") from error
        except AudioError as error:
            is_audio = not reason or (path.lower().endswith(COMPRESSED_SUFFIXES) and content)
            cause = f"cannot be read: {error}." if is_audio else f"is not audio: {reason}"
            raise AudioError(f"{path} ({len(content)} bytes) {cause}") from error
        self.num_samples = len(self._samples)

    def _read(self, start: int, count: int) -> Samples:
        return self._samples[start : start + count]


def decode(content: bytes) -> tuple[Samples, int]:
    """Decode the bytes of an audio file by FFmpeg; return samples (T,) at 16 kHz, mono, and the file's rate.

    Raises AudioError if the file is damaged, ends before the length in its header, or has no sound.
    """
    import av  # takes a tenth of a second; most corpora don't need it

    if not content:
        raise AudioError("it is empty, or damaged in its archive")
    pieces: list[npt.NDArray[Any]] = []  # (channels, T)
    try:
        with av.open(io.BytesIO(content), options={"format_whitelist": _FFMPEG_FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError("it has no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # the header names a codec that FFmpeg lacks
                raise AudioError("its codec is unknown: its header is damaged")
            stream.codec_context.thread_count = 1
            expected_seconds, rate = float((stream.duration or 0) * (stream.time_base or 0)), stream.rate
            if container.format.name in _GUESSED_LENGTH:
                expected_seconds = 0.0
            elif not expected_seconds and len(container.streams) == 1:
                # Matroska only has a total length; if there is a picture too, the sound may be shorter.
                expected_seconds = (container.duration or 0) / av.time_base
            to_16_khz = av.AudioResampler("s16p", None, SAMPLE_RATE)  # FFmpeg's mono mix would have weights
            for frame in chain(container.decode(stream), (None,)):
                pieces += [out.to_ndarray() for out in to_16_khz.resample(frame)]
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AudioError(f"it can't be decoded ({reason})") from error
    if not pieces:
        raise AudioError("it holds no samples")
    channels = np.concatenate(pieces, axis=1)
    samples = channels[0] if len(channels) == 1 else np.rint(channels.mean(0, np.float32)).astype(np.int16)
    seconds = len(samples) / SAMPLE_RATE
    if seconds < expected_seconds - _MISSING_SECONDS:
        raise AudioError(f"it ends after {seconds:.2f} of {expected_seconds:.2f} s")
    return samples, rate


def read_whole(path: str | os.PathLike[str]) -> Waveform:
    """Return all samples of a file as a waveform (T,) of full scale 1; raises AudioError."""
    with open_audio(path) as recording:
        return recording.read_whole()


def to_waveform(samples: npt.NDArray[Any]) -> Waveform:
    """Convert int16 samples to float32 of full scale 1, without rounding."""
    waveform: Waveform = samples.astype(np.float32)
    waveform *= np.float32(1 / FULL_SCALE)
    return waveform


def to_int16(waveform: Waveform) -> Samples:
    """Round a waveform of full scale 1 to int16; a louder waveform is scaled down, not clipped."""
    samples = np.empty(len(waveform), dtype=np.int16)
    round_to_int16(waveform * np.float32(FULL_SCALE), samples)
    return samples


def round_to_int16(waveform: Waveform, samples: Samples) -> None:
    """Round a waveform of full scale 32768 into `samples`, scaled down if louder; overwrites `waveform`."""
    highest, lowest = float(waveform.max(initial=0.0)), float(waveform.min(initial=0.0))
    if highest >= FULL_SCALE - 0.5 or lowest < -FULL_SCALE - 0.5:
        waveform *= np.float32((FULL_SCALE - 1) / max(highest, -lowest))
    samples[:] = np.rint(waveform, out=waveform)


def _find_samples(header: bytes) -> tuple[bool, int, int]:
    # Returns whether the file is a plain WAV, and the first byte and byte count of its samples (WAV, SPH).
    if (sph := re.match(rb"NIST_1A\s+(\d+)\s", header)) and b"shorten" not in header:
        fields = dict(re.findall(rb"(\w+) -i (\d+)", header))
        counts = (int(fields.get(key, 1)) for key in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        return False, int(sph[1]), math.prod(counts)
    is_wav = header[:4] == b"RIFF" and header[8:12] == b"WAVE"
    position, is_plain = 12, False
    while is_wav and position + 8 <= len(header):
        name, size = struct.unpack_from("<4sI", header, position)
        position += 8
        if name == b"data":
            return is_plain, position, size
        if name == b"fmt " and size >= 16 and position + 16 <= len(header):
            tag, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", header, position)
            is_plain = (tag, channels, rate, block_bytes, bits) == (1, 1, SAMPLE_RATE, 2, 16)
        position += size + size % 2
    return False, 0, 0


@lru_cache(maxsize=64)
def low_pass(up: int, down: int) -> npt.NDArray[np.float32]:
    """Return the low-pass filter (taps,) for resampling by up / down, at `up` times the rate of the input.

    A Kaiser window (beta 8.6) gives about 86 dB in the stop band, from the lower Nyquist frequency on.
    """
    slower = max(up, down)
    taps = scipy.signal.firwin(2 * _HALF_TAPS * slower + 1, 0.92 / slower, window=("kaiser", 8.6))
    return np.asarray(taps, dtype=np.float32)
