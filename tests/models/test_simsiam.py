import pytest
import torch

from sslsv.models.byol import byol_loss
from sslsv.models.simsiam import SimSiam, simsiam_loss
from tests.models.networks import PROGRESS, batch, normal, small

P, Z = normal(6, 2, 5, seed=1), normal(6, 2, 5, seed=2)


@pytest.fixture
def model() -> SimSiam:
    return small(SimSiam, projector_dims=(12, 8), predictor_dims=(4, 8))


def test_simsiam_loss__is_byols_but_for_scale_and_offset() -> None:
    assert 4 + 4 * simsiam_loss(P, Z).item() == pytest.approx(byol_loss(P, Z).item(), rel=1e-12)


def test_simsiam_loss__of_orthogonal_rows_is_0() -> None:
    p, z = torch.eye(2)[:, None, None].expand(-1, 3, 2, -1)
    assert simsiam_loss(p, z).item() == 0


def test_simsiam_loss__no_gradient_passes_through_the_projections() -> None:
    p, z = P.clone().requires_grad_(), Z.clone().requires_grad_()
    simsiam_loss(p, z).backward()
    assert p.grad.abs().max() > 0 and z.grad is None


def test_simsiam__exchanged_views_change_nothing(model) -> None:
    views = batch(model.double())["views"]
    losses = [model({"views": each}, PROGRESS).loss.item() for each in (views, views.flip(1))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_simsiam__the_metric_tells_spread_projections_from_collapsed_ones(model) -> None:
    assert model(batch(model), PROGRESS).metrics["projection_feature_std"] > 0.5
    model.projector[-1] = torch.nn.Identity()  # a batch norm would spread the rows again
    torch.nn.init.zeros_(model.projector[-2].weight)
    assert model(batch(model), PROGRESS).metrics["projection_feature_std"] < 1e-6


def test_simsiam__the_predictor_alone_keeps_the_highest_rate(model) -> None:
    constant = [g for g in model.parameter_groups() if not g.get("follows_schedule", True)]
    assert {p for group in constant for p in group["params"]} == set(model.predictor.parameters())
