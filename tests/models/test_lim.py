import math

import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.lim import LIM, OBJECTIVES, bce_loss, draw_others, lim_scores, mine_loss, nce_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=3, total_steps=10, epoch=0, total_epochs=1)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_draw_others__never_the_own_row_and_every_other_one_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([draw_others(5, generator) for _ in range(4000)])
    assert not (draws == torch.arange(5)).any()
    for row in range(5):
        counts = draws[:, row].bincount(minlength=5)
        others = [count for other, count in enumerate(counts.tolist()) if other != row]
        assert min(others) > 900 and max(others) < 1100  # 1000 are expected


def test_draw_others__two_rows_have_each_other() -> None:
    assert draw_others(2, torch.Generator()).tolist() == [1, 0]


def test_objectives__are_the_sums_in_loops() -> None:
    positives, negatives = random(5, seed=1), random(5, seed=2)
    pairs = [(p, n) for p, n in zip(positives.tolist(), negatives.tolist(), strict=True)]
    share = sum(math.exp(n) for _, n in pairs)
    expected = {
        "bce": sum(-math.log(1 / (1 + math.exp(-p))) - math.log(1 - 1 / (1 + math.exp(-n))) for p, n in pairs)
        / 5,
        "mine": -sum(p for p, _ in pairs) / 5 + math.log(share / 5),
        "nce": -sum(p - math.log(math.exp(p) + share) for p, _ in pairs) / 5,
    }
    for name, objective in OBJECTIVES.items():
        assert objective(positives, negatives).item() == pytest.approx(expected[name], rel=1e-12), name


def test_objectives__of_scores_of_0_are_chance() -> None:
    zeros = torch.zeros(7, dtype=torch.float64)
    assert bce_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2), rel=1e-12)
    assert mine_loss(zeros, zeros).item() == pytest.approx(0, abs=1e-12)
    assert nce_loss(zeros, zeros).item() == pytest.approx(math.log(8), rel=1e-12)


@pytest.mark.parametrize(("name", "is_invariant"), [("bce", False), ("mine", True), ("nce", True)])
def test_objectives__a_shift_of_all_scores_matters_to_bce_alone(name: str, is_invariant: bool) -> None:
    positives, negatives = random(5, seed=1), random(5, seed=2)
    objective = OBJECTIVES[name]
    shifted = objective(positives + 1.5, negatives + 1.5).item()
    assert (shifted == pytest.approx(objective(positives, negatives).item(), rel=1e-12)) == is_invariant


def test_lim_scores__are_cosines_with_the_own_and_with_another_row() -> None:
    z_a, z_b, others = random(4, 3, seed=1), random(4, 3, seed=2), torch.tensor([2, 0, 3, 1])
    positives, negatives = lim_scores(z_a, z_b, others)
    for i, other in enumerate(others.tolist()):
        for score, row in ((positives[i], z_b[i]), (negatives[i], z_b[other])):
            assert score.item() == pytest.approx(float(z_a[i] @ row / z_a[i].norm() / row.norm()), rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_lim__negatives_depend_on_the_step_alone(objective: str) -> None:
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    model = LIM(LIM.Config(projector_dims=(), objective=objective), encoder)
    z_a, z_b = random(6, 16, seed=1), random(6, 16, seed=2)
    expected = OBJECTIVES[objective](*lim_scores(z_a, z_b, draw_others(6, PROGRESS.generator())))
    for seed in (1, 2):
        torch.manual_seed(seed)  # workers differ in PyTorch's own draws
        assert model.loss_at(z_a, z_b, PROGRESS).loss.item() == expected.item()
