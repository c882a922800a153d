"""Check for every model that the number of processes changes no loss, gradient or running statistics."""

import pytest
import torch

from benchmarks import world_size
from sslsv import registry

ALL_CASES = [pytest.param(ranks, world_size.ALL_CASES, marks=pytest.mark.slow) for ranks in (1, 2, 4)]


@pytest.mark.parametrize(("ranks", "cases"), [(2, world_size.CASES), *ALL_CASES])
def test_models__any_number_of_processes_learns_the_same(ranks: int, cases: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    errors = world_size.measure(ranks, cases)
    assert set(registry.names("models")) < set(errors) == set(cases)
    control = errors.pop(world_size.CONTROL)
    for case, values in errors.items():
        assert max(values.values()) <= 1e-6, (case, values)
    if ranks > 1:  # checks the check: batch norm per process must make a difference
        assert control["gradient"] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_models__in_float32_too(ranks: int) -> None:
    torch.set_num_threads(1)
    errors = world_size.measure(ranks, world_size.ALL_CASES, torch.float32)
    assert errors.pop(world_size.CONTROL)["gradient"] > 1e-2
    for case, values in errors.items():
        assert max(values.values()) <= 1e-5, (case, values)


def test_relative_error__is_of_the_worst_tensor() -> None:
    expected = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([10.0])}
    assert world_size.relative_error(expected, expected) == 0
    values = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([10.1])}
    assert world_size.relative_error(values, expected) == pytest.approx(0.1)
