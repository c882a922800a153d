"""What is to be known about a recording before it is trained on, measured on what training hears of it."""

import hashlib
import os
from typing import Any

import numpy as np
import soundfile

from sslsv.data.audio import SAMPLE_RATE, AudioError, AudioFile, Waveform

SILENCE_DB = -60.0  # of full scale: a frame below it is silent
FLOOR_DB = -120.0  # lowest level reported: digital silence has none

_FRAME = SAMPLE_RATE // 50  # 20 ms
_BLOCK = 60 * SAMPLE_RATE  # read at a time: hours of audio are no matter; a multiple of the frame
_FULL_SCALE = 32766.5 / 32768  # the two largest magnitudes of 16 bits lie above


def stamp(path: str) -> tuple[int, int]:
    """Return (bytes, time of change in ns) of a file, by which a change shows; (-1, -1) if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def inspect(path: str) -> dict[str, Any]:
    """Return what is known of a recording, by the columns of `measurements.SCHEMA` that apply to it."""
    size, mtime_ns = stamp(path)
    row: dict[str, Any] = {"path": printable(path), "size": size, "mtime_ns": mtime_ns}
    try:
        return row | _measure(path)
    except AudioError as error:
        return row | {"error": printable(str(error))}


def printable(path: str) -> str:
    """Return a path as valid UTF-8: bytes that are none are written `\\xff`."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path  # itself: a million copies are felt


def _measure(path: str) -> dict[str, Any]:
    peak = square_sum = total = 0.0
    silent = clipped = 0
    digest = hashlib.blake2b(digest_size=16)
    with AudioFile(path) as file:
        for start in range(0, file.num_samples, _BLOCK):
            block = file.read(start, min(_BLOCK, file.num_samples - start))
            magnitude = np.abs(block)
            peak = max(peak, float(magnitude.max()))
            clipped += int(np.count_nonzero(magnitude >= _FULL_SCALE))
            total += float(block.sum(dtype=np.float64))
            square_sum += float(np.square(block, dtype=np.float64).sum())
            silent += _silent_samples(block)
            samples = np.clip(np.rint(block * np.float32(32768)), -32768, 32767)
            digest.update(samples.astype("<i2").tobytes())
        count = file.num_samples
    about = soundfile.info(path)
    return {
        "seconds": about.duration,
        "sample_rate": about.samplerate,
        "channels": about.channels,
        "encoding": f"{about.format} {about.subtype}",
        "peak_db": _decibels(peak**2),
        "level_db": _decibels(square_sum / count),
        "silent_share": silent / count,
        "clipped_share": clipped / count,
        "dc_offset": total / count,
        "digest": digest.hexdigest(),
    }


def _silent_samples(block: Waveform) -> int:
    starts = np.arange(0, len(block), _FRAME)
    lengths = np.diff(starts, append=len(block))
    means = np.add.reduceat(block, starts, dtype=np.float64) / lengths
    powers = np.add.reduceat(np.square(block, dtype=np.float64), starts) / lengths - means**2
    return int(lengths[powers < 10.0 ** (SILENCE_DB / 10)].sum())


def _decibels(power: float) -> float:
    return float(10 * np.log10(max(power, 10.0 ** (FLOOR_DB / 10))))
