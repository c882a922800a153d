"""One of several augmentations, such as either a room or a noise."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Crop, make_augmentation
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.section import Augmentations, Probability
from sslsv.settings import refuse_if, section


class OneOf(Augmentation):
    """Apply one of several augmentations to each view; it draws from the stream of the `one_of`."""

    @section
    class Config:
        """Hold the settings of a choice; without choices nothing happens."""

        name: Literal["one_of"] = "one_of"
        probability: Probability = 1.0
        choices: Augmentations = ()
        # A choice's share is its weight over the sum of weights.
        weights: Annotated[tuple[float, ...], Field(description="one for each choice; none = equal")] = ()

        def __post_init__(self) -> None:
            """Refuse weights that are no shares of the choices."""
            given, count = list(self.weights), len(self.choices)
            refuse_if(
                bool(given) and (len(given) != count or min(given) < 0 or not any(given)),
                f"weights is {given} for {count} choices; give each one a weight of 0 or more, not all "
                "0, or leave weights out for equal shares",
            )

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        self._choices = [make_augmentation(choice, bank) for choice in config.choices]
        self._bounds = list(accumulate(config.weights or [1.0] * len(self._choices)))

    def draw(self, rng: Draws) -> tuple[int, Any] | None:
        """Draw a choice by its weight, then what the choice draws."""
        if not self._choices:
            return None
        place = rng.between(0.0, self._bounds[-1])
        number = next(i for i, bound in enumerate(self._bounds) if place < bound)
        drawn = self._choices[number].draw_or_skip(rng)
        return None if drawn is None else (number, drawn)

    def apply(self, crops: Sequence[Crop], draws: Sequence[tuple[int, Any]]) -> list[Waveform]:
        """Apply to each crop its choice."""
        changed: dict[int, Waveform] = {}
        for number, choice in enumerate(self._choices):
            rows = [row for row, (chosen, _) in enumerate(draws) if chosen == number]
            results = choice.apply([crops[row] for row in rows], [draws[row][1] for row in rows])
            changed.update(zip(rows, results, strict=True))
        return [changed[row] for row in range(len(crops))]

    def sort_key(self, drawn: tuple[int, Any]) -> tuple[int, ...]:
        """Bring views of the same choice together."""
        number, inner = drawn
        return (number, *self._choices[number].sort_key(inner))
