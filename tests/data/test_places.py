import numpy as np
import pytest

from sslsv.data.draws import crop_start, disjoint_starts


def test_crop_start__reaches_every_place() -> None:
    starts = {crop_start(10, 4, fraction) for fraction in np.linspace(0, 1, 1000, endpoint=False)}
    assert starts == set(range(7))
    assert crop_start(3, 4, 0.99) == 0 and crop_start(4, 4, 0.99) == 0


@pytest.mark.parametrize("count", [2, 3, 5])
def test_disjoint_starts__never_overlap_and_stay_inside(count: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        length = int(rng.integers(count * 10, count * 20))
        starts = disjoint_starts(length, 10, rng.random(count).tolist(), float(rng.random()))
        assert len(starts) == count and min(starts) >= 0 and max(starts) + 10 <= length
        assert np.diff(sorted(starts)).min() >= 10
    assert sorted(disjoint_starts(10 * count - 1, 10, [0.5] * count, 0.0))[-1] == 10 * count - 11
