"""The number of processes must not change what is learnt: loss, gradients, running statistics, for every model."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is not part of the installed package
from benchmarks import world_size  # noqa: E402
from sslsv import registry  # noqa: E402


@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_models__any_number_of_processes_learns_the_same(ranks: int) -> None:
    torch.set_num_threads(1)
    errors = world_size.measure(ranks)
    cases = {*registry.names("models"), *world_size.VARIANTS, world_size.RECOMPUTED, world_size.CONTROL}
    assert set(errors) == cases
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
