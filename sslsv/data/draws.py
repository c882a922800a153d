"""Random numbers that depend only on their purpose, never on earlier draws, and positions of crops."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import count

import numpy as np

_AT_ONCE = 16  # numbers generated at a time; each step of the counter gives four


class Draws:
    """Draw numbers from one stream; `bad_files` collects the drawn bank files that were unreadable."""

    def __init__(self, fractions: Iterator[float]) -> None:
        self._fractions = fractions
        self.bad_files: list[int] = []

    def fraction(self) -> float:
        """Draw from [0, 1)."""
        return next(self._fractions)

    def below(self, count: int) -> int:
        """Draw an integer from 0 .. count - 1, all equally likely."""
        return int(next(self._fractions) * count)

    def between(self, low: float, high: float) -> float:
        """Draw from [low, high)."""
        return low + (high - low) * next(self._fractions)


class RandomStreams:
    """Provide a stream of numbers in [0, 1) for each (epoch, utterance, purpose, view), from one seed.

    The generator is counter-based (Philox 4x64): the seed is its key, and the counter encodes the other four.
    A purpose is identified by its name, so a new purpose does not change the numbers of existing ones.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._philox = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def __reduce__(self) -> tuple[type, tuple[int]]:
        # Only the seed is sent: arrays received through shared memory are read-only.
        return RandomStreams, (self.seed,)

    def draws(self, epoch: int, utterance: int, purpose: str, view: int = 0) -> Draws:
        """Return the numbers of one stream from its start; several streams can be read alternately."""
        return Draws(self._stream(epoch, utterance, name_key(purpose, 5) << 16 | view))

    def _stream(self, epoch: int, utterance: int, purpose: int) -> Iterator[float]:
        for step in count(step=_AT_ONCE // 4):
            # Creating a new generator would cost six times as much as moving this one.
            self._state["state"]["counter"][:] = (step, purpose, utterance, epoch)
            self._philox.state = self._state
            yield from self._generator.random(_AT_ONCE).tolist()


@lru_cache(maxsize=256)
def name_key(name: str | bytes, num_bytes: int) -> int:
    """Return a hash of a name, an integer of `num_bytes` bytes, the same on every machine."""
    text = name if isinstance(name, bytes) else name.encode()
    return int.from_bytes(blake2b(text, digest_size=num_bytes).digest(), "big")


def crop_starts(num_samples: int, crop_samples: int, fractions: Sequence[float]) -> list[int]:
    """Return starts of crops, each at a fraction in [0, 1) of all positions; 0 in a shorter utterance."""
    return [int(fraction * max(1, num_samples - crop_samples + 1)) for fraction in fractions]


def disjoint_starts(
    num_samples: int, crop_samples: int, fractions: Sequence[float], order: float
) -> list[int]:
    """Return starts of crops that do not overlap, or overlap as little as possible in a short utterance.

    For two crops, the gap is drawn uniformly, then the position of the pair; `order` >= 0.5 swaps them. More
    crops are drawn uniformly from all arrangements without overlap, and rotated by `order` in [0, 1).
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
    shift = int(order * num_crops)
    return starts[shift:] + starts[:shift]
