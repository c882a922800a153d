"""Physics of a recording: noise at a ratio, the echo of a room; pure functions of waveforms."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import fft

from sslsv.data.audio import SAMPLE_RATE
from sslsv.data.rounding import Waveform

Spectrum = npt.NDArray[np.complex64]

# FFTs are made for so many rows at once, always: half the time of single ones. Wider instructions work on
# several rows, so that the last bits of a row may depend on their number, but not on its place or neighbours.
BLOCK_ROWS = 4
_PIECE = 4000  # samples
_ROOM_STEP = SAMPLE_RATE // 8  # rooms of about the same length share an FFT length


def mean_square(waveform: Waveform) -> float:
    """Return the mean power of a waveform (T,)."""
    # In pieces so short that no BLAS shares them among threads, whose number would change the last bits.
    pieces = waveform[: len(waveform) // _PIECE * _PIECE].reshape(-1, _PIECE)
    energy = float(np.vecdot(pieces, pieces).sum(dtype=np.float64))
    if len(rest := waveform[pieces.size :]):
        energy += float(np.dot(rest, rest))
    return energy / len(waveform)


def add_noise(crop: Waveform, noise: Waveform, snr_db: float) -> None:
    """Add noise (T,) to a crop (T,) in place, scaled so that the ratio of their mean powers is `snr_db`.

    The noise is scaled in place. A silent crop or a silent noise has no such ratio: both stay as they are.
    """
    crop_power, noise_power = mean_square(crop), mean_square(noise)
    if crop_power > 0.0 and noise_power > 0.0:
        noise *= np.float32(np.sqrt(crop_power / noise_power) * 10.0 ** (-snr_db / 20.0))
        crop += noise


def fft_length(crop_samples: int, room_samples: int) -> int:
    """Return a fast even length of a real FFT that convolves them without wrapping around."""
    longest = -(-room_samples // _ROOM_STEP) * _ROOM_STEP
    return 2 * int(fft.next_fast_len(-(-(crop_samples + longest) // 2), real=True))


def room_spectra(rooms: Sequence[npt.NDArray[np.generic]], length: int) -> Spectrum:
    """Return the spectra (N, length // 2 + 1) of N <= 4 impulse responses, scaled to unit energy."""
    responses = [room.astype(np.float32) for room in rooms]
    for response in responses:
        response /= np.float32(np.sqrt(mean_square(response) * len(response)))
    spectra: Spectrum = fft.rfft(_block(responses, length))[: len(rooms)]
    return spectra


def reverberate(
    crops: Sequence[npt.NDArray[np.generic]], spectra: Sequence[Spectrum], delays: Sequence[int], length: int
) -> list[Waveform]:
    """Convolve N <= 4 crops (T,), each with a response given by its spectrum (length // 2 + 1,).

    `delays` are the places of the highest peaks of the responses, the direct paths: they move to delay 0, so
    that a crop keeps its timing and what a response holds before its peak comes early.
    """
    transformed = fft.rfft(_block(crops, length))
    for row, spectrum in zip(transformed, spectra, strict=False):
        row *= spectrum
    wet = fft.irfft(transformed, length)
    return [row[delay : delay + len(crop)] for row, crop, delay in zip(wet, crops, delays, strict=False)]


def _block(rows: Sequence[npt.NDArray[np.generic]], length: int) -> Waveform:
    block = np.empty((BLOCK_ROWS, length), dtype=np.float32)
    for place, row in zip(block, rows, strict=False):
        place[: len(row)] = row
        place[len(row) :] = 0.0
    block[len(rows) :] = 0.0
    return block
