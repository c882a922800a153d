import pytest
import torch

from sslsv.models.byol import BYOL, byol_loss
from tests.encoders.peers import lightly_loss
from tests.models.networks import PROGRESS, batch, normal, small

P, Z = normal(6, 2, 5, seed=1), normal(6, 2, 5, seed=2)
DIMS = {"projector_dims": (8, 8), "predictor_dims": (8, 8)}


def test_byol_loss__is_that_of_lightly() -> None:
    negative_cosine = lightly_loss("negative_cosine_similarity", "NegativeCosineSimilarity")()
    theirs = 2 + 2 * negative_cosine(P[:, 0], Z[:, 1]) + 2 + 2 * negative_cosine(P[:, 1], Z[:, 0])
    assert byol_loss(P, Z).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_byol_loss__of_orthogonal_rows_is_4() -> None:
    p, z = torch.eye(2)[:, None, None].expand(-1, 3, 2, -1)
    assert byol_loss(p, z).item() == 4


def test_byol__equal_views_and_no_predictor_cost_nothing() -> None:
    model = small(BYOL, **DIMS)
    model.predictor = torch.nn.Sequential()
    views = batch(model)["views"][:, :1].expand(-1, 2, -1)
    assert model({"views": views}, PROGRESS).loss.item() == pytest.approx(0, abs=1e-5)
