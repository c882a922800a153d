import math

import pytest

from sslsv.config import ScheduleConfig
from sslsv.training.schedules import learning_rate

BASE = 1e-3


def rates(config: ScheduleConfig, epochs: int = 4, steps_per_epoch: int = 10) -> list[float]:
    total = epochs * steps_per_epoch
    return [learning_rate(config, BASE, step, total, steps_per_epoch) for step in range(total)]


def test_constant__never_moves() -> None:
    assert set(rates(ScheduleConfig(name="constant"))) == {BASE}


def test_step__multiplies_every_n_epochs() -> None:
    seen = rates(ScheduleConfig(name="step", decay_factor=0.5, decay_every_epochs=2), epochs=6)
    assert seen == [BASE] * 20 + [BASE * 0.5] * 20 + [BASE * 0.25] * 20


def test_cosine__is_the_formula_and_ends_exactly_at_the_minimum() -> None:
    seen = rates(ScheduleConfig(name="cosine", min_learning_rate=1e-5))
    for step, rate in enumerate(seen):
        expected = 1e-5 + 0.5 * (BASE - 1e-5) * (1 + math.cos(math.pi * step / 39))
        assert rate == pytest.approx(expected, rel=1e-12)
    assert (seen[0], seen[-1]) == (BASE, 1e-5)


def test_warmup__rises_linearly_from_above_zero_to_the_base() -> None:
    seen = rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=1.0))
    assert seen[:10] == pytest.approx([BASE * n / 10 for n in range(1, 11)], rel=1e-12)
    assert seen[9] == BASE


def test_warmup__cosine_after_it_ends_exactly_at_the_minimum() -> None:
    seen = rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=1.5, min_learning_rate=2e-5))
    assert seen[-1] == 2e-5
    assert all(later < earlier for earlier, later in zip(seen[14:], seen[15:], strict=False))


def test_warmup__of_no_length_is_the_plain_cosine_and_of_all_of_it_ends_at_the_base() -> None:
    cosine = rates(ScheduleConfig(name="cosine"))
    assert rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=0.0)) == cosine
    seen = rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=4.0))
    assert (seen[0], seen[-1]) == (pytest.approx(BASE / 40), BASE)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "warmup_cosine"])
def test_learning_rate__is_positive_for_runs_of_one_step(name: str) -> None:
    assert learning_rate(ScheduleConfig(name=name), BASE, 0, 1, 1) == BASE  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cosine", "warmup_cosine"])
def test_learning_rate__keeps_the_last_rate_past_the_end(name: str) -> None:
    config = ScheduleConfig(name=name, warmup_epochs=1.0)  # type: ignore[arg-type]
    assert learning_rate(config, BASE, 99, 40, 10) == config.min_learning_rate
