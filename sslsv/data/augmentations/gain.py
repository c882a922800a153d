"""The level of a view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Crop
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.section import check_augmentation


class Gain(Augmentation):
    """Makes a view louder or quieter."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of the level."""

        name: Literal["gain"] = "gain"
        probability: float = 1.0  # of a view to get a level of its own
        level_db: tuple[float, float] = (-20.0, 5.0)  # change in dB, drawn uniformly

        def __post_init__(self) -> None:
            """Refuse a range in the wrong order."""
            check_augmentation(self, "level_db")

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        self._level_db = config.level_db

    def draw(self, rng: Draws) -> float:
        """Draw the factor of a view."""
        return float(10.0 ** (rng.between(*self._level_db) / 20.0))

    def apply(self, crops: Sequence[Crop], draws: Sequence[float]) -> list[Waveform]:
        """Multiply each crop by its factor."""
        levelled = [crop.astype(np.float32, copy=False) for crop in crops]
        for waveform, factor in zip(levelled, draws, strict=True):
            waveform *= np.float32(factor)
        return levelled
