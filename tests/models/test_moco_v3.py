import pytest
import torch

from sslsv.models.contrast import info_nce_loss
from sslsv.models.moco_v3 import MoCoV3
from tests.models.networks import PROGRESS, batch, small


def test_moco_v3__without_a_predictor_and_with_a_copied_teacher_it_is_info_nce_of_the_projections() -> None:
    model = small(MoCoV3, projector_dims=(8, 6), predictor_dims=(7, 6))
    *_, linear, norm = model.projector
    assert linear.bias is None and isinstance(norm, torch.nn.BatchNorm1d) and norm.weight is None
    model.predictor = torch.nn.Identity()
    output = model(batch(model), PROGRESS)
    with torch.no_grad():
        z = model.projector(model.encoder(batch(model)["views"].transpose(0, 1).flatten(0, 1))).chunk(2)
    expected = info_nce_loss(z[0], z[1], 0.2) + info_nce_loss(z[1], z[0], 0.2)
    assert output.loss.item() == pytest.approx(0.4 * expected.item(), rel=1e-5)
