"""The number of processes must not change what is learnt: loss, gradients, running statistics, for every model."""

import pytest
import torch

from benchmarks import world_size
from sslsv import registry


@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_models__any_number_of_processes_learns_the_same(ranks: int) -> None:
    torch.set_num_threads(1)
    errors = world_size.measure(ranks)
    assert set(registry.names("models")) < set(errors) == set(world_size.CASES)
    control = errors.pop(world_size.CONTROL)
    for case, values in errors.items():
        assert max(values.values()) <= 1e-6, (case, values)
    if ranks > 1:  # the check itself: batch norm per process must be seen
        assert control["gradient"] > 1e-2


def test_relative_error__is_of_the_worst_tensor() -> None:
    expected = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([10.0])}
    assert world_size.relative_error(expected, expected) == 0
    values = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([10.1])}
    assert world_size.relative_error(values, expected) == pytest.approx(0.1)
