import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.models.lim import LIM, draw_others, lim_loss
from tests.models.networks import PROGRESS, normal, small


def test_draw_others__never_the_own_row_and_every_other_one_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([draw_others(5, generator) for _ in range(4000)])
    assert not (draws == torch.arange(5)).any()
    assert draw_others(2, generator).tolist() == [1, 0]
    for row in range(5):
        counts = draws[:, row].bincount(minlength=5)
        others = [count for other, count in enumerate(counts.tolist()) if other != row]
        assert min(others) > 900 and max(others) < 1100  # 1000 are expected


def test_objectives__are_the_sums_in_loops() -> None:
    positives, negatives = normal(5, seed=1), normal(5, seed=2)
    pairs = [(p, n) for p, n in zip(positives.tolist(), negatives.tolist(), strict=True)]
    share = sum(math.exp(n) for _, n in pairs)
    expected = {
        "bce": sum(-math.log(1 / (1 + math.exp(-p))) - math.log(1 - 1 / (1 + math.exp(-n))) for p, n in pairs)
        / 5,
        "mine": -sum(p for p, _ in pairs) / 5 + math.log(share / 5),
        "nce": -sum(p - math.log(math.exp(p) + share) for p, _ in pairs) / 5,
    }
    for name, value in expected.items():
        assert lim_loss(name, positives, negatives).item() == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize(("name", "chance"), [("bce", 2 * math.log(2)), ("mine", 0.0), ("nce", math.log(8))])
def test_objectives__of_scores_of_0_are_chance_and_a_shift_matters_to_bce_alone(
    name: str, chance: float
) -> None:
    zeros = torch.zeros(7, dtype=torch.float64)
    assert lim_loss(name, zeros, zeros).item() == pytest.approx(chance, abs=1e-12)
    shifted = lim_loss(name, zeros + 1.5, zeros + 1.5).item()
    assert (shifted == pytest.approx(chance, abs=1e-12)) == (name != "bce")


@pytest.mark.parametrize("objective", ["bce", "mine", "nce"])
def test_lim__scores_are_cosines_and_negatives_depend_on_the_step_alone(objective: str) -> None:
    model = small(LIM, projector_dims=(), objective=objective)
    z_a, z_b = normal(6, 16, seed=1), normal(6, 16, seed=2)
    others = draw_others(6, PROGRESS.generator())
    cosines = F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T
    expected = lim_loss(objective, cosines.diagonal(), cosines[torch.arange(6), others]).item()
    for seed in (1, 2):
        torch.manual_seed(seed)  # workers have different global seeds in PyTorch
        assert model.loss_at(z_a, z_b, PROGRESS).loss.item() == pytest.approx(expected, rel=1e-12)
