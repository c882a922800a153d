"""Random numbers that depend on what they are for, never on what was drawn before, and places of crops."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import count

import numpy as np

_AT_ONCE = 16  # numbers made at a time, four for each step of the counter


class Draws:
    """Draw numbers from one stream; `bad_files` are the unreadable files of the bank that were drawn."""

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
    """Give one stream of numbers in [0, 1) to each (epoch, utterance, purpose, view), all of one seed.

    Counter-based (Philox 4x64): the key is the seed, the counter says what the numbers are for. A purpose is
    known by its name, so that another purpose changes nothing for those that are there.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._philox = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def __reduce__(self) -> tuple[type, tuple[int]]:
        # Arrays that reach a process through shared memory can't be written to.
        return RandomStreams, (self.seed,)

    def draws(self, epoch: int, utterance: int, purpose: str, view: int = 0) -> Draws:
        """Return the numbers of one stream; any number of streams can be read in turn."""
        return Draws(self._stream(epoch, utterance, name_key(purpose, 5) << 16 | view))

    def _stream(self, epoch: int, utterance: int, purpose: int) -> Iterator[float]:
        for step in count(step=_AT_ONCE // 4):
            # A new generator would cost six times as much as this one moved to the place.
            self._state["state"]["counter"][:] = (step, purpose, utterance, epoch)
            self._philox.state = self._state
            yield from self._generator.random(_AT_ONCE).tolist()


@lru_cache(maxsize=256)
def name_key(name: str | bytes, num_bytes: int) -> int:
    """Return a number of so many bytes that stands for a name, the same on every machine."""
    text = name if isinstance(name, bytes) else name.encode()
    return int.from_bytes(blake2b(text, digest_size=num_bytes).digest(), "big")


def crop_starts(num_samples: int, crop_samples: int, fractions: Sequence[float]) -> list[int]:
    """Return starts of crops, each at a fraction in [0, 1) of all places; 0 in a shorter utterance."""
    return [int(fraction * max(1, num_samples - crop_samples + 1)) for fraction in fractions]


def disjoint_starts(
    num_samples: int, crop_samples: int, fractions: Sequence[float], order: float
) -> list[int]:
    """Return starts of crops that do not overlap, or overlap as little as possible in a short utterance.

    Two crops: the gap is uniform, then the place of the pair is; `order` in [0.5, 1) swaps them.
    More crops: uniform over all arrangements without overlap, rotated by `order`.
    """
    num_crops = len(fractions)
    slack = num_samples - num_crops * crop_samples
    if num_crops < 2:
        return crop_starts(num_samples, crop_samples, fractions)
    if slack < 0:
        last = max(0, num_samples - crop_samples)
        starts = [last * i // (num_crops - 1) for i in range(num_crops)]
    elif num_crops == 2:
        gap = int(fractions[0] * (slack + 1))
        first = int(fractions[1] * (slack - gap + 1))
        starts = [first, first + crop_samples + gap]
    else:
        offsets = sorted(int(fraction * (slack + 1)) for fraction in fractions)
        starts = [offset + i * crop_samples for i, offset in enumerate(offsets)]
    turn = int(order * num_crops)
    return starts[turn:] + starts[:turn]
