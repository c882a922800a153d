"""Apply one of several augmentations to each view, such as either a room or a noise."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from sslsv.data.audio import Waveform
from sslsv.data.augmentations.base import Augmentation, Augmenter, Crop
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.section import Augmentations, Probability, room_and_noise
from sslsv.settings import section


class OneOf(Augmentation):
    """Apply one of several augmentations to each view; its draws come from the stream of `one_of`."""

    @section
    class Config:
        """Hold the settings of the choice."""

        name: Literal["one_of"] = "one_of"
        probability: Probability = 1.0
        choices: Annotated[
            Augmentations,
            Field(min_length=1, description="equally likely; an item listed twice is twice as likely"),
        ] = field(default_factory=room_and_noise)

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__(config, bank)
        self._choices = Augmenter(config.choices, bank).augmentations

    def draw(self, rng: Draws) -> tuple[int, Any] | None:
        number = rng.below(len(self._choices))
        drawn = self._choices[number].draw_or_skip(rng)
        return None if drawn is None else (number, drawn)

    def apply(self, crops: Sequence[Crop], draws: Sequence[tuple[int, Any]]) -> list[Waveform]:
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
