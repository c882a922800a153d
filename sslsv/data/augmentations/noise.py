"""Add noise, music or other people's speech at a random signal-to-noise ratio (SNR)."""

import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Crop, mean_square
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.section import NOISE_FOLDER, NoiseKind, Probability, Range, Rising
from sslsv.settings import section

# Folder, number of files and SNR (dB) of a view's noise. Files are drawn when read: some may be bad.
NoiseDraw = tuple[str, int, float, Draws]


class Noise(Augmentation):
    """Add recordings of a corpus such as MUSAN, of one kind to each view."""

    @section
    class Config:
        """Hold the settings of noise; the defaults are the usual ones for MUSAN."""

        name: Literal["noise"] = "noise"
        probability: Probability = 1.0
        # Kinds are folders below `folder`, drawn equally often. SNRs are drawn uniformly; lower is harder.
        kinds: Annotated[tuple[NoiseKind, ...], Field(min_length=1)] = ("noise", "music", "speech")
        snr_db: Annotated[Range, Field(description="speech-to-noise ratio, dB")] = (0.0, 15.0)
        music_snr_db: Annotated[Range, Field(description="speech-to-music ratio, dB")] = (5.0, 15.0)
        speech_snr_db: Annotated[Range, Field(description="speech-to-babble ratio, dB")] = (13.0, 20.0)
        # Babble is a sum of recordings of other people at equal levels; (3, 7) is usual.
        speech_files: Annotated[
            tuple[PositiveInt, PositiveInt], Rising, Field(description="recordings summed for babble")
        ] = (1, 1)
        folder: Annotated[str, Field(description="below data.root, with a subfolder per kind")] = NOISE_FOLDER

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        ranges = {"noise": config.snr_db, "music": config.music_snr_db, "speech": config.speech_snr_db}
        self._kinds = [(f"{config.folder}/{kind}", kind == "speech", ranges[kind]) for kind in config.kinds]
        for folder, _, _ in self._kinds:
            bank.add(folder)

    def draw(self, rng: Draws) -> NoiseDraw:
        folder, is_babble, snr_db = self._kinds[rng.below(len(self._kinds))]
        low, high = self.config.speech_files
        num_files = low + rng.below(high - low + 1) if is_babble else 1
        return folder, num_files, rng.between(*snr_db), rng

    def apply(self, crops: Sequence[Crop], draws: Sequence[NoiseDraw]) -> list[Waveform]:
        noisy = []
        for crop, (folder, num_files, snr_db, rng) in zip(crops, draws, strict=True):
            noisy.append(crop.astype(np.float32, copy=False))
            add_noise(noisy[-1], self._read(rng, folder, num_files, len(crop)), snr_db)
        return noisy

    def _read(self, rng: Draws, folder: str, num_files: int, num_samples: int) -> Waveform:
        parts = []
        for _ in range(num_files):
            parts.append(self.bank.draw_noise(rng, folder, num_samples).astype(np.float32))
            if num_files > 1 and (power := mean_square(parts[-1])) > 0.0:
                parts[-1] *= np.float32(1.0 / np.sqrt(power))
        return functools.reduce(np.add, parts)


def add_noise(crop: Waveform, noise: Waveform, snr_db: float) -> None:
    """Add noise (T,) to a crop (T,) in place, scaled so that the ratio of their mean powers is `snr_db`.

    The noise is scaled in place. If the crop or the noise is silent, both stay unchanged.
    """
    crop_power, noise_power = mean_square(crop), mean_square(noise)
    if crop_power > 0.0 and noise_power > 0.0:
        noise *= np.float32(np.sqrt(crop_power / noise_power) * 10.0 ** (-snr_db / 20.0))
        crop += noise
