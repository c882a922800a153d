"""Add reverberation: convolve a view with a room impulse response (rir)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import fft

from sslsv.data.audio import SAMPLE_RATE, Waveform
from sslsv.data.augmentations.base import ROWS_AT_ONCE, Augmentation, Crop, mean_square
from sslsv.data.bank import Bank, Rir
from sslsv.data.draws import Draws
from sslsv.data.section import RIR_FOLDER, Probability
from sslsv.settings import section

Spectrum = npt.NDArray[np.complex64]

_RIR_STEP = SAMPLE_RATE // 8  # rir lengths are rounded up to it, so that many share an FFT length


class Reverb(Augmentation):
    """Convolve each view with a random impulse response from a folder."""

    @section
    class Config:
        """Hold the settings of reverberation."""

        name: Literal["reverb"] = "reverb"
        probability: Probability = 1.0
        folder: Annotated[str, Field(description="below data.root, with rirs at any depth")] = RIR_FOLDER

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        bank.add(config.folder)

    def draw(self, rng: Draws) -> Rir:
        return self.bank.draw_rir(rng, self.config.folder)

    def apply(self, crops: Sequence[Crop], draws: Sequence[Rir]) -> list[Waveform]:
        """Convolve each crop with its rir; crops of the same FFT length are processed together."""
        lengths = [fft_length(len(crop), rir.num_samples) for crop, rir in zip(crops, draws, strict=True)]
        wet: dict[int, Waveform] = {}
        for length in set(lengths):
            rows = [row for row, each in enumerate(lengths) if each == length]
            rirs = [draws[row] for row in rows]
            spectra, delays = self._spectra(rirs, length), [rir.delay for rir in rirs]
            reverberated = reverberate([crops[row] for row in rows], spectra, delays, length)
            wet.update(zip(rows, reverberated, strict=True))
        return [wet[row] for row in range(len(crops))]

    def sort_key(self, drawn: Rir) -> tuple[int, ...]:
        return (drawn.num_samples, drawn.file)

    def _spectra(self, rirs: Sequence[Rir], length: int) -> list[Spectrum]:
        cache = self.bank.cache
        spectra = {rir.file: cache.get((rir.file, length)) for rir in rirs}
        missing = list({rir.file: rir for rir in rirs if spectra[rir.file] is None}.values())
        if missing:
            new = rir_spectra([self.bank.read_rir(rir.file)[: rir.num_samples] for rir in missing], length)
            for rir, spectrum in zip(missing, new, strict=True):
                spectra[rir.file] = cache.put((rir.file, length), spectrum.copy())
        return [spectra[rir.file] for rir in rirs]  # type: ignore[misc]


def fft_length(crop_samples: int, rir_samples: int) -> int:
    """Return a fast, even length of a real FFT that convolves crop and rir without wrapping around."""
    rounded = -(-rir_samples // _RIR_STEP) * _RIR_STEP
    return 2 * int(fft.next_fast_len(-(-(crop_samples + rounded) // 2), real=True))


def rir_spectra(responses: Sequence[npt.NDArray[np.generic]], length: int) -> Spectrum:
    """Return the spectra (N, length // 2 + 1) of N <= 4 impulse responses, scaled to unit energy."""
    scaled = [response.astype(np.float32) for response in responses]
    for response in scaled:
        response /= np.float32(np.sqrt(mean_square(response) * len(response)))
    spectra: Spectrum = fft.rfft(_block(scaled, length))[: len(responses)]
    return spectra


def reverberate(
    crops: Sequence[npt.NDArray[np.generic]], spectra: Sequence[Spectrum], delays: Sequence[int], length: int
) -> list[Waveform]:
    """Convolve N <= 4 crops (T,), each with a response given by its spectrum (length // 2 + 1,).

    `delays` are the positions of the highest peaks of the responses: the direct paths. The output is shifted
    so that the direct path has delay 0. Crops keep their timing, and energy before the peak arrives earlier.
    """
    transformed = fft.rfft(_block(crops, length))
    for row, spectrum in zip(transformed, spectra, strict=False):
        row *= spectrum
    wet = fft.irfft(transformed, length)
    return [row[delay : delay + len(crop)] for row, crop, delay in zip(wet, crops, delays, strict=False)]


def _block(rows: Sequence[npt.NDArray[np.generic]], length: int) -> Waveform:
    # One FFT of four rows takes half the time of four FFTs of one row. There are always four, some of zeros,
    # because the number of rows, unlike a row's position, may change the last bits of the result.
    block = np.zeros((ROWS_AT_ONCE, length), dtype=np.float32)
    for target, row in zip(block, rows, strict=False):
        target[: len(row)] = row
    return block
