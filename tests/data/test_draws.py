from itertools import islice

import numpy as np

from sslsv.data.draws import Draws, RandomStreams


def numbers(streams: RandomStreams, *place: int, count: int = 50) -> list[float]:
    return list(islice(streams.stream(*place), count))


def test_stream__is_philox_at_a_counter() -> None:
    philox = np.random.Philox(key=[5, 0], counter=[0, 3, 2, 1])
    assert numbers(RandomStreams(5), 1, 2, 3) == np.random.Generator(philox).random(50).tolist()


def test_stream__does_not_depend_on_what_else_is_drawn() -> None:
    streams = RandomStreams(5)
    wanted = numbers(streams, 1, 2, 3)
    first, second = streams.stream(1, 2, 3), streams.stream(9, 2, 3)
    taken = []
    for _ in range(50):
        taken.append(next(first))
        next(second)
    assert taken == wanted


def test_stream__every_part_of_the_place_and_the_seed_matter() -> None:
    streams = RandomStreams(5)
    all_of_them = [
        numbers(streams, *place, count=4) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    all_of_them.append(numbers(RandomStreams(6), 0, 0, 0, count=4))
    assert len({tuple(each) for each in all_of_them}) == 5


def test_draws__cover_their_ranges_evenly() -> None:
    draws = Draws(RandomStreams(1).stream(0, 0, 0))
    counts = np.bincount([draws.below(5) for _ in range(5000)])
    assert len(counts) == 5 and counts.min() > 900
    values = [draws.between(-3.0, 7.0) for _ in range(5000)]
    assert -3 <= min(values) < -2.9 and 6.9 < max(values) < 7 and abs(np.mean(values) - 2) < 0.2
    assert all(0 <= draws.fraction() < 1 for _ in range(100))
