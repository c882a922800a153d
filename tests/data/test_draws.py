import numpy as np
import pytest

from sslsv.data.draws import Draws, RandomStreams, crop_starts, disjoint_starts, name_key


def numbers(draws: Draws, count: int = 50) -> list[float]:
    return [draws.fraction() for _ in range(count)]


def test_draws__are_philox_at_a_counter() -> None:
    counter = name_key("noise", 5) * 2**16 + 3
    philox = np.random.Philox(key=[5, 0], counter=[0, counter, 2, 1])
    expected = np.random.Generator(philox).random(50).tolist()
    streams = RandomStreams(5)
    draws, others = streams.draws(1, 2, "noise", 3), streams.draws(9, 2, "noise", 3)  # read alternately
    assert [(draws.fraction(), others.fraction())[0] for _ in range(50)] == expected


def test_name_key__is_the_same_everywhere() -> None:
    assert name_key("noise", 5) == 98387406151 and name_key(b"noise", 5) == name_key("noise", 5)


def test_draws__every_part_of_the_place_and_the_seed_matter() -> None:
    keys = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    drawn = [tuple(numbers(RandomStreams(5).draws(*key), 4)) for key in keys]
    assert len({*drawn, tuple(numbers(RandomStreams(6).draws(*keys[0]), 4))}) == 6


def test_draws__cover_their_ranges_evenly() -> None:
    draws = RandomStreams(1).draws(0, 0, "a")
    counts = np.bincount([draws.below(5) for _ in range(5000)])
    assert len(counts) == 5 and counts.min() > 900
    values = [draws.between(-3.0, 7.0) for _ in range(5000)]
    assert -3 <= min(values) < -2.9 and 6.9 < max(values) < 7 and abs(np.mean(values) - 2) < 0.2
    assert all(0 <= draws.fraction() < 1 for _ in range(100))


def test_crop_starts__reaches_every_place() -> None:
    assert set(crop_starts(10, 4, np.linspace(0, 1, 1000, endpoint=False))) == set(range(7))
    assert crop_starts(3, 4, [0.99]) == crop_starts(4, 4, [0.99]) == [0]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_disjoint_starts__never_overlap_and_stay_inside(count: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        length = int(rng.integers(count * 10, count * 20))
        starts = disjoint_starts(length, 10, rng.random(count).tolist(), float(rng.random()))
        assert len(starts) == count and min(starts) >= 0 and max(starts) + 10 <= length
        assert np.diff(sorted(starts)).min() >= 10
    assert sorted(disjoint_starts(10 * count - 1, 10, [0.5] * count, 0.0))[-1] == 10 * count - 11
