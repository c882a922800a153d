"""The interface of augmentations, and the Augmenter, which applies a list of them to crops."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import Samples, Waveform, round_to_int16
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.registry import find

Crop = npt.NDArray[np.int16] | npt.NDArray[np.float32]

ROWS_AT_ONCE = 4  # crops augmented together: they fit into the CPU's cache and one block of FFTs
# BLAS does not split pieces this short among threads, whose number would change the last bits.
_PIECE_SAMPLES = 4000


class Augmentation(ABC):
    """Change views in one way; a subclass has a nested `Config` with `name` and `probability`.

    `draw` makes all random decisions, from a stream of the view and the augmentation's name, so they do not
    depend on other augmentations in the list. The constructor adds the augmentation's files to the bank.
    """

    Config: ClassVar[Any]

    def __init__(self, config: Any, bank: Bank) -> None:
        self.config, self.bank = config, bank

    def draw_or_skip(self, rng: Draws) -> Any | None:
        """Return the draw for one view, or None if the view stays unchanged."""
        return self.draw(rng) if rng.fraction() < self.config.probability else None

    @abstractmethod
    def draw(self, rng: Draws) -> Any | None:
        """Return the random decisions that `apply` needs for one view, or None to keep the view."""

    @abstractmethod
    def apply(self, crops: Sequence[Crop], draws: Sequence[Any]) -> list[Waveform]:
        """Return up to four float32 crops (T,) of full scale 32768, each changed by its own draw.

        The given crops are int16, possibly read-only, or float32, which may be changed in place. A result
        must not depend on the other crops.
        """

    def sort_key(self, drawn: Any) -> tuple[int, ...]:
        """Return a sort key; draws with equal keys are cheaper to apply together."""
        return ()


class Augmenter:
    """Apply a list of augmentations in order; raises FileNotFoundError if one of them has no files."""

    augmentations: list[Augmentation]

    def __init__(self, settings: Sequence[Any], bank: Bank) -> None:
        self.augmentations = [find("data.augmentations", each.name)(each, bank) for each in settings]

    def augment(self, views: Samples, streams: Sequence[Callable[[str], Draws]]) -> list[int]:
        """Augment N crops (N, T) in place; each view depends only on its crop and its streams.

        `streams[i](name)` gives the random numbers of an augmentation for crop i. A view that would exceed
        full scale is scaled down, not clipped. Returns the first unreadable bank file that was drawn for each
        view, or -1; an empty list without augmentations.
        """
        rngs = [[stream(each.config.name) for stream in streams] for each in self.augmentations]
        steps = [
            (augmentation, [augmentation.draw_or_skip(rng) for rng in view_rngs])
            for augmentation, view_rngs in zip(self.augmentations, rngs, strict=True)
        ]
        order = list(range(len(views)))
        for augmentation, draws in steps:
            keys = [() if drawn is None else augmentation.sort_key(drawn) for drawn in draws]
            order.sort(key=keys.__getitem__)
        for first in range(0, len(order), ROWS_AT_ONCE):
            rows = order[first : first + ROWS_AT_ONCE]
            changed: dict[int, Any] = {row: views[row] for row in rows}
            for augmentation, draws in steps:
                chosen = [row for row in rows if draws[row] is not None]
                results = augmentation.apply([changed[row] for row in chosen], [draws[row] for row in chosen])
                changed.update(zip(chosen, results, strict=True))
            for row, crop in changed.items():
                if crop.dtype != np.int16:
                    round_to_int16(crop, views[row])
        by_crop = zip(*rngs, strict=True)
        return [next((rng.bad_files[0] for rng in crop_rngs if rng.bad_files), -1) for crop_rngs in by_crop]


def mean_square(waveform: Waveform) -> float:
    """Return the mean power of a waveform (T,)."""
    pieces = waveform[: len(waveform) // _PIECE_SAMPLES * _PIECE_SAMPLES].reshape(-1, _PIECE_SAMPLES)
    energy = float(np.vecdot(pieces, pieces).sum(dtype=np.float64))
    if len(rest := waveform[pieces.size :]):
        energy += float(np.dot(rest, rest))
    return energy / len(waveform)
