"""Random numbers that depend on what they are for, never on what was drawn before."""

from collections.abc import Iterator
from itertools import count

import numpy as np

_AT_ONCE = 16  # numbers made at a time, four for each step of the counter


class Draws:
    """What is drawn for one view: numbers from a stream, and the bank files that were unreadable."""

    def __init__(self, fractions: Iterator[float]) -> None:
        self._fractions = fractions
        self.bad_files: list[int] = []

    def fraction(self) -> float:
        """Draw from [0, 1)."""
        return next(self._fractions)

    def below(self, count: int) -> int:
        """Draw from 0 .. count - 1, equally likely."""
        return int(next(self._fractions) * count)

    def between(self, low: float, high: float) -> float:
        """Draw from [low, high)."""
        return low + (high - low) * next(self._fractions)


class RandomStreams:
    """Independent streams of numbers in [0, 1), one for each (epoch, utterance, purpose), of one seed.

    Counter-based (Philox 4x64): the key is the seed, the counter says what the numbers are for.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._philox = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def __reduce__(self) -> tuple[type, tuple[int]]:
        # Arrays that reach a process through shared memory can't be written to.
        return RandomStreams, (self.seed,)

    def stream(self, epoch: int, utterance: int, purpose: int) -> Iterator[float]:
        """Yield the numbers of one stream; any number of streams can be read in turn."""
        for step in count(step=_AT_ONCE // 4):
            # A new generator would cost six times as much as this one moved to the place.
            self._state["state"]["counter"][:] = (step, purpose, utterance, epoch)
            self._philox.state = self._state
            yield from self._generator.random(_AT_ONCE).tolist()
