"""Physics of a recording: noise at a ratio, the echo of a room; pure functions of waveforms."""

import numpy as np
import numpy.typing as npt
from scipy import fft

from sslsv.data.audio import Waveform


def mean_square(waveform: Waveform) -> float:
    """Return the mean power of a waveform (T,); summed pairwise, so that it never depends on BLAS threads."""
    return float(np.square(waveform).sum(dtype=np.float64)) / len(waveform)


def add_noise(crop: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise (T,) to a crop (T,) so that the ratio of their mean powers is `snr_db`.

    A silent crop or a silent noise has no such ratio: the crop comes back unchanged.
    """
    crop_power, noise_power = mean_square(crop), mean_square(noise)
    if crop_power == 0.0 or noise_power == 0.0:
        return np.array(crop)
    scale = np.float32(np.sqrt(crop_power / noise_power) * 10.0 ** (-snr_db / 20.0))
    noisy: Waveform = crop + noise * scale
    return noisy


def reverberate(crop: Waveform, room: Waveform) -> Waveform:
    """Convolve a crop (T,) with an impulse response (K,) of any level; returns (T,).

    The response is scaled to unit energy and its highest peak, the direct path, is moved to delay 0: the crop
    keeps its timing, and what the response holds before the peak comes early.
    """
    length = fft_length(len(crop), len(room))
    return convolve(crop, fft.rfft(unit_energy(room), length), int(np.argmax(np.abs(room))), length)


def fft_length(crop_samples: int, room_samples: int) -> int:
    """Return a fast even length of a real FFT that convolves without wrapping around."""
    return 2 * int(fft.next_fast_len((crop_samples + room_samples) // 2, real=True))


def unit_energy(room: Waveform) -> Waveform:
    """Scale an impulse response (K,) to a sum of squares of 1; a silent one stays silent."""
    energy = mean_square(room) * len(room)
    return room if energy == 0.0 else (room / np.float32(np.sqrt(energy))).astype(np.float32)


def convolve(crop: Waveform, spectrum: npt.NDArray[np.complex64], delay: int, length: int) -> Waveform:
    """Convolve a crop (T,) with a response given by its spectrum at an FFT length, `delay` samples late."""
    # One row at a time: an FFT over several rows may use wider SIMD, and its bits would depend on the batch.
    wet = fft.irfft(fft.rfft(crop, length) * spectrum, length)
    return np.ascontiguousarray(wet[delay : delay + len(crop)], dtype=np.float32)
