"""Places of crops in a recording, from numbers in [0, 1)."""

from collections.abc import Sequence


def crop_start(num_samples: int, crop_samples: int, fraction: float) -> int:
    """Return the start of a crop at a fraction in [0, 1) of all its places; 0 if the utterance is shorter."""
    return int(fraction * max(1, num_samples - crop_samples + 1))


def disjoint_starts(
    num_samples: int, crop_samples: int, fractions: Sequence[float], order: float
) -> list[int]:
    """Return starts of crops that do not overlap, or overlap as little as possible in a short utterance.

    Two crops: the gap is uniform, then the place of the pair is; `order` in [0, 1) below a half swaps them.
    More crops: uniform over all arrangements without overlap, rotated by `order`.
    """
    count = len(fractions)
    slack = num_samples - count * crop_samples
    if count < 2:
        return [crop_start(num_samples, crop_samples, fraction) for fraction in fractions]
    if slack < 0:
        room = max(0, num_samples - crop_samples)
        starts = [room * i // (count - 1) for i in range(count)]
    elif count == 2:
        gap = int(fractions[0] * (slack + 1))
        first = int(fractions[1] * (slack - gap + 1))
        starts = [first, first + crop_samples + gap]
    else:
        offsets = sorted(int(fraction * (slack + 1)) for fraction in fractions)
        starts = [offset + i * crop_samples for i, offset in enumerate(offsets)]
    turn = int(order * count)
    return starts[turn:] + starts[:turn]
