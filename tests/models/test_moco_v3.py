import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.contrast import info_nce_loss
from sslsv.models.moco_v3 import MoCoV3, moco_v3_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def pairs(seed: int) -> torch.Tensor:
    return torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> MoCoV3:
    torch.manual_seed(4)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=8, stem_time_stride=2))
    return MoCoV3(MoCoV3.Config(crop_seconds=0.3, projector_dims=(8, 6), predictor_dims=(7, 6)), encoder)


def test_moco_v3_loss__is_algorithm_1_in_loops() -> None:
    queries, keys = pairs(1), pairs(2)
    q, k = F.normalize(queries, dim=2), F.normalize(keys, dim=2)
    expected = 0.0
    for a, b in ((0, 1), (1, 0)):
        for i in range(6):
            scores = [math.exp(float(q[i, a] @ k[j, b]) / 0.2) for j in range(6)]
            expected -= 2 * 0.2 * math.log(scores[i] / sum(scores)) / 6
    assert moco_v3_loss(queries, keys, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_moco_v3_loss__is_both_cross_view_info_nce_and_its_gradient_does_not_grow_as_tau_falls() -> None:
    queries, keys = pairs(1), pairs(2)
    both = info_nce_loss(queries[:, 0], keys[:, 1], 0.3) + info_nce_loss(queries[:, 1], keys[:, 0], 0.3)
    assert moco_v3_loss(queries, keys, 0.3).item() == pytest.approx(0.6 * both.item())
    norms = []
    for temperature in (0.05, 0.5):
        leaf = queries.clone().requires_grad_()
        moco_v3_loss(leaf, keys, temperature).backward()
        norms.append(leaf.grad.norm().item())
    assert max(norms) < 3 * min(norms)


def test_moco_v3__without_a_predictor_and_with_a_copied_teacher_it_is_info_nce_of_the_projections() -> None:
    model = small()
    model.predictor = torch.nn.Identity()
    batch = {"views": torch.randint(-9000, 9000, (4, 2, 4800)).to(torch.int16)}
    output = model(batch, PROGRESS)
    with torch.no_grad():
        z = model.projector(model.encoder(batch["views"].transpose(0, 1).flatten(0, 1))).chunk(2)
    expected = info_nce_loss(z[0], z[1], 0.2) + info_nce_loss(z[1], z[0], 0.2)
    assert output.loss.item() == pytest.approx(0.4 * expected.item(), rel=1e-5)
    output.loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())


def test_moco_v3__the_projector_ends_in_a_batch_norm_without_weights() -> None:
    *_, linear, norm = small().projector
    assert linear.bias is None and isinstance(norm, torch.nn.BatchNorm1d) and norm.weight is None


def test_moco_v3_config__predictions_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="predictor_dims is"):
        MoCoV3.Config(predictor_dims=(64, 32))
