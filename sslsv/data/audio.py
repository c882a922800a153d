"""Recordings as the package hears them: 16 kHz, mono, 16 bits, from any file that libsndfile or FFmpeg reads.

A plain WAV or FLAC file (16 kHz, mono, 16 bits) gives its very samples. Any other is averaged over channels,
converted to 16 kHz and rounded to 16 bits, full scale for full scale. A crop equals the same part of the
whole recording (mp3: up to rounding, Opus: up to a thousandth of full scale). FFmpeg decodes
files that libsndfile can't read, or reads wrongly (AAC, WMA, AMR, GSM, mp3 without its length in the header
...), as a whole for every crop.
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
import scipy  # loads scipy.signal, which takes a second, when it is used
import soundfile

from sslsv.data.audio_files import COMPRESSED_SUFFIXES
from sslsv.ops import SAMPLE_RATE as SAMPLE_RATE

Samples = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]

FULL_SCALE = 32768.0  # of int16 samples; 1 in waveforms

_HALF_TAPS = 32  # Half the length of the filter, in samples of the slower rate; more is sharper and slower.
_LOUDEST = 10.0  # Files of floats with such a peak are damaged or in another unit: full scale is 1.
_HEADER_BYTES = 4096  # the samples of a plain WAV file begin within them, or libsndfile reads it
# Decoders of these need what came before a crop: without it the first samples are wrong, up to full scale.
_LOSSY, _LEAD_FRAMES = ("MP3", "OGG"), 4096
# libsndfile misses places in the last page of an Ogg Vorbis file by some hundred frames. That page is shorter
# than this, so crops near the end are decoded from a place before it.
_VORBIS_END_FRAMES = 2**18
_MP3_LENGTHS = (b"Xing", b"Info", b"VBRI")  # in the first frame of an mp3 that tells its length
# FFmpeg guesses the length of these from the bit rate: it says nothing about whether a file is complete.
_GUESSED_LENGTH = ("aac", "amr", "amrnb", "amrwb", "ac3", "mpegts", "mp3")
_MISSING_SECONDS = 0.2  # what a complete recording may lack: an AAC frame is 64 ms at 16 kHz
# FFmpeg also reads playlists, which name other files and addresses: it must not open these.
_FFMPEG_FORMATS = "aac,ac3,aiff,amr,amrnb,amrwb,asf,au,avi,caf,flac,matroska,mov,mp3,mpegts,ogg,w64,wav"


class AudioError(Exception):
    """Report a recording that cannot be used; the message names the file and the cause."""


class Recording(contextlib.AbstractContextManager["Recording"]):
    """Read crops of an open recording."""

    path: str  # for messages
    num_samples: int  # at 16 kHz
    file_rate: int = SAMPLE_RATE  # samples per second in the file itself
    is_slow = False  # True: a crop takes about ten times as long as one of a FLAC file, or longer

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

    Raises AudioError, here and when it is read, for a file that is missing, empty, no audio, not finite, far
    above full scale, or truncated. WAV, FLAC, SPH, mp3 with a length in it, m4a, mp4, webm and wma tell that
    they are truncated; of any other file the rest is a shorter recording.
    """
    name, header = os.fspath(path), b""
    with contextlib.suppress(OSError):  # the decoder says why a file can't be opened
        file = open(name, "rb", buffering=0)  # noqa: SIM115
        header = os.pread(file.fileno(), _HEADER_BYTES, 0)
        is_plain, first_byte, num_bytes = _find_samples(header)
        missing = first_byte + num_bytes - os.fstat(file.fileno()).st_size
        if is_plain and num_bytes >= 2 and missing <= 0:
            return _PlainWav(name, file, first_byte, num_bytes // 2)
        if header[:3] == b"ID3":  # a tag, perhaps with pictures: its size has 7 bits in each of four bytes
            size = sum(byte << 7 * (3 - i) for i, byte in enumerate(header[6:10]))
            header = os.pread(file.fileno(), _HEADER_BYTES, 10 + size)
        file.close()
        # libsndfile would not tell. Programs that write into a pipe can't know the size: they promise 2 GB.
        if missing > 0 and num_bytes < 2**31 - 2**16:
            raise AudioError(f"{name} is cut off: {missing} bytes are missing of what its header promises.")
    try:
        decoded = soundfile.SoundFile(name)
        # libsndfile takes the delay of an mp3 in a WAV file for sound, guesses the length of an mp3 that does
        # not tell it, does not know that of a FLAC from a pipe, and can't go to a place in GSM 6.10 or G.721.
        is_odd = decoded.format == "WAV" and decoded.subtype.startswith("MPEG")
        is_odd |= decoded.format == "MP3" and not any(mark in header for mark in _MP3_LENGTHS)
        if is_odd or decoded.frames >= 2**62 or not decoded.seekable():
            return _WholeFile(name, "")
        return _DecodedFile(name, decoded)
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
        return _WholeFile(name, getattr(error, "error_string", str(error)))


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
        lead = min(start, max(self._lead_frames, start - self._last_exact_seek))
        dtype = "int16" if self._is_16_bit else "float32"
        try:
            self._file.seek(start - lead)
            frames: npt.NDArray[Any] = self._file.read(lead + count, dtype=dtype)[lead:]
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            raise AudioError(f"{self.path} cannot be decoded at frame {start}: {error}") from error
        if len(frames) < count:
            raise AudioError(
                f"{self.path} is truncated: {self._file.frames} frames promised, {start + len(frames)} there."
            )
        return frames


class _WholeFile(Recording):
    # A file that FFmpeg decodes whole. `reason` says why libsndfile can't read it, "" if it reads it wrongly.

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
    """Return the samples of an audio file by FFmpeg, (T,) at 16 kHz, channels averaged, and the file's rate.

    Raises AudioError when it is damaged, ends before the length in its header, or has no sound.
    """
    import av  # a tenth of a second that most corpora need not wait for

    if not content:
        raise AudioError("it is empty, or damaged in its archive")
    pieces: list[npt.NDArray[Any]] = []  # (channels, T)
    try:
        with av.open(io.BytesIO(content), options={"format_whitelist": _FFMPEG_FORMATS}) as container:
            if not container.streams.audio:
                raise AudioError("it has no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # a header that names a codec that FFmpeg lacks
                raise AudioError("its codec is unknown: its header is damaged")
            stream.codec_context.thread_count = 1
            expected_seconds, rate = float((stream.duration or 0) * (stream.time_base or 0)), stream.rate
            if container.format.name in _GUESSED_LENGTH:
                expected_seconds = 0.0
            elif not expected_seconds and len(container.streams) == 1:
                # Matroska tells the length of the whole alone, and beside a picture the sound may be shorter.
                expected_seconds = (container.duration or 0) / av.time_base
            to_16_khz = av.AudioResampler("s16p", None, SAMPLE_RATE)  # to mono it would weight channels
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


def _find_samples(header: bytes) -> tuple[bool, int, int]:
    # Returns whether it is a plain WAV file, and first byte and number of bytes of samples, of WAV and SPH.
    if (sph := re.match(rb"NIST_1A\s+(\d+)\s", header)) and b"shorten" not in header:
        facts = dict(re.findall(rb"(\w+) -i (\d+)", header))
        counts = (int(facts.get(fact, 1)) for fact in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        return False, int(sph[1]), math.prod(counts)
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
