import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.byol import BYOL, byol_loss
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def rows(seed: int) -> torch.Tensor:
    return torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> BYOL:
    torch.manual_seed(7)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    return BYOL(BYOL.Config(crop_seconds=0.3, projector_dims=(8, 8), predictor_dims=(8, 8)), encoder)


def test_byol_loss__is_the_sum_over_both_directions() -> None:
    p, z = rows(1), rows(2)
    expected = 0.0
    for i in range(len(p)):
        for a, b in ((p[i, 0], z[i, 1]), (p[i, 1], z[i, 0])):
            expected += (2 - 2 * float(a @ b) / float(a.norm() * b.norm())) / len(p)
    assert byol_loss(p, z).item() == pytest.approx(expected, rel=1e-12)


def test_byol_loss__is_that_of_lightly() -> None:
    negative_cosine = lightly_loss("negative_cosine_similarity", "NegativeCosineSimilarity")()
    p, z = rows(1), rows(2)
    theirs = 2 + 2 * negative_cosine(p[:, 0], z[:, 1]) + 2 + 2 * negative_cosine(p[:, 1], z[:, 0])
    assert byol_loss(p, z).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_byol_loss__lies_between_0_and_8() -> None:
    p = rows(1)
    assert byol_loss(p, p.flip(1)).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(p, -p.flip(1)).item() == pytest.approx(8)


def test_byol__equal_views_and_no_predictor_cost_nothing() -> None:
    model = small()
    model.predictor = torch.nn.Sequential()
    views = torch.randint(-9000, 9000, (4, 1, 4800)).to(torch.int16).expand(-1, 2, -1)
    assert model({"views": views}, PROGRESS).loss.item() == pytest.approx(0, abs=1e-5)


def test_byol__no_gradient_reaches_the_teacher_and_its_batch_norms_go_on() -> None:
    model = small()
    norm = model.teacher["encoder"].stem[1]
    before = norm.running_mean.clone()
    views = torch.randint(-9000, 9000, (4, 2, 4800)).to(torch.int16)
    model({"views": views}, PROGRESS).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert not torch.equal(before, norm.running_mean)


def test_byol_config__prediction_and_projection_must_have_one_size() -> None:
    with pytest.raises(ValueError, match="same number of units"):
        BYOL.Config(projector_dims=(8, 8), predictor_dims=(8, 4))
