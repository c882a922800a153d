"""Change the level of a view by a random number of dB."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Crop
from sslsv.data.draws import Draws
from sslsv.data.section import Probability, Range
from sslsv.settings import section


class Gain(Augmentation):
    """Make a view louder or quieter."""

    @section
    class Config:
        """Hold the settings of the gain."""

        name: Literal["gain"] = "gain"
        probability: Probability = 1.0
        level_db: Annotated[Range, Field(description="level change, dB")] = (-20.0, 5.0)

    def draw(self, rng: Draws) -> float:
        return float(10.0 ** (rng.between(*self.config.level_db) / 20.0))

    def apply(self, crops: Sequence[Crop], draws: Sequence[float]) -> list[Waveform]:
        levelled = [crop.astype(np.float32, copy=False) for crop in crops]
        for waveform, factor in zip(levelled, draws, strict=True):
            waveform *= np.float32(factor)
        return levelled
