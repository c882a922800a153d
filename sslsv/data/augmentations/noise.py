"""Noise, music or other people's speech, added at a ratio to the speech."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Crop, mean_square
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.section import NOISE_FOLDER, check_augmentation
from sslsv.settings import refuse_if


class NoiseDraw(NamedTuple):
    """The folder of a noise, how many files of it are summed, the ratio, and the stream that draws them."""

    folder: str
    num_files: int
    snr_db: float
    rng: Draws


class Noise(Augmentation):
    """Adds recordings of a bank such as MUSAN, one kind for each view."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of noise; the defaults are those usual with MUSAN."""

        name: Literal["noise"] = "noise"
        probability: float = 1.0  # of a view to be noisy
        # Folders of `folder`, equally likely.
        kinds: tuple[Literal["noise", "music", "speech"], ...] = ("noise", "music", "speech")
        snr_db: tuple[float, float] = (0.0, 15.0)  # speech to noise, dB, drawn uniformly; lower is harder
        music_snr_db: tuple[float, float] = (5.0, 15.0)  # speech to music, dB
        speech_snr_db: tuple[float, float] = (13.0, 20.0)  # speech to other speech (babble), dB
        speech_files: tuple[int, int] = (1, 1)  # recordings summed for babble at equal levels, e.g. (3, 7)
        folder: str = NOISE_FOLDER  # below data.root, or absolute; holds a folder for each kind

        def __post_init__(self) -> None:
            """Refuse ranges in the wrong order and a list without kinds."""
            check_augmentation(self, "snr_db", "music_snr_db", "speech_snr_db", "speech_files")
            least = self.speech_files[0]
            refuse_if(least < 1, f"speech_files starts at {least}; babble needs at least 1")
            refuse_if(not self.kinds, "kinds is empty: name noise, music or speech, or leave noise out")

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        self._bank, self._num_files = bank, config.speech_files
        ranges = {"noise": config.snr_db, "music": config.music_snr_db, "speech": config.speech_snr_db}
        self._kinds = [(f"{config.folder}/{kind}", kind == "speech", ranges[kind]) for kind in config.kinds]
        for folder, _, _ in self._kinds:
            bank.add_noises(folder)

    def draw(self, rng: Draws) -> NoiseDraw:
        """Draw kind, number of files and ratio; files are drawn when they are read, as some may be bad."""
        folder, is_babble, snr_db = self._kinds[rng.below(len(self._kinds))]
        low, high = self._num_files if is_babble else (1, 1)
        num_files = low + rng.below(high - low + 1) if is_babble else 1
        return NoiseDraw(folder, num_files, rng.between(*snr_db), rng)

    def apply(self, crops: Sequence[Crop], draws: Sequence[NoiseDraw]) -> list[Waveform]:
        """Add its noise to each crop."""
        noisy = [crop.astype(np.float32, copy=False) for crop in crops]
        for waveform, drawn in zip(noisy, draws, strict=True):
            add_noise(waveform, self._read(drawn, len(waveform)), drawn.snr_db)
        return noisy

    def _read(self, drawn: NoiseDraw, num_samples: int) -> Waveform:
        total = np.zeros(num_samples, dtype=np.float32)
        for _ in range(drawn.num_files):
            noise = self._bank.draw_noise(drawn.rng, drawn.folder, num_samples).astype(np.float32)
            if drawn.num_files == 1:
                return noise
            power = mean_square(noise)
            if power > 0.0:
                noise *= np.float32(1.0 / np.sqrt(power))
            total += noise
        return total


def add_noise(crop: Waveform, noise: Waveform, snr_db: float) -> None:
    """Add noise (T,) to a crop (T,) in place, scaled so that the ratio of their mean powers is `snr_db`.

    The noise is scaled in place. A silent crop or a silent noise has no such ratio: both stay as they are.
    """
    crop_power, noise_power = mean_square(crop), mean_square(noise)
    if crop_power > 0.0 and noise_power > 0.0:
        noise *= np.float32(np.sqrt(crop_power / noise_power) * 10.0 ** (-snr_db / 20.0))
        crop += noise
