"""A view maker that says how long it took, and for what."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sslsv.data.augmentations import noise, reverb
from sslsv.data.views import ViewMaker
from sslsv.training.stopwatch import Stopwatch, Watched

DATA_SECTIONS = ("read and decode", "room", "noise", "rest")  # of making a batch, in a data process
MAKING_SECONDS = "making_seconds"  # column of a batch


class TimedViewMaker(ViewMaker):
    """Makes the batches of another maker, and times the second and every n-th after it."""

    def __init__(self, maker: ViewMaker, every: int = 1) -> None:
        self.__dict__.update(maker.__dict__)
        self.every, self.calls = every, 0

    def make_batch(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
        """The batch of the other maker, and `making_seconds` (B, sections): a row's share of them, or 0."""
        self.calls += 1
        watch = Stopwatch()
        if (self.calls - 2) % self.every:
            batch = super().make_batch(rows)
        else:
            watched = (
                Watched(self, "_read_crops", "read and decode"),
                Watched(self._bank, "draw_rir", "room"),
                Watched(reverb, "reverberate", "room"),
                Watched(self._bank, "draw_noise", "noise"),
                Watched(noise, "add_noise", "noise"),
            )
            with watch.watching(watched), watch.section("rest"):
                batch = super().make_batch(rows)
        seconds = np.array([watch.seconds.get(name, 0.0) for name in DATA_SECTIONS])
        count = len(batch["sample"])
        return {**batch, MAKING_SECONDS: np.tile(seconds / count, (count, 1))}
