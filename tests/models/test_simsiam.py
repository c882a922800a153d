import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.byol import byol_loss
from sslsv.models.simsiam import SimSiam, simsiam_loss
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def rows(seed: int) -> torch.Tensor:
    return torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> SimSiam:
    torch.manual_seed(7)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    config = SimSiam.Config(crop_seconds=0.3, projector_dims=(12, 8), predictor_dims=(4, 8))
    return SimSiam(config, encoder)


def views(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9000, 9000, (6, 2, 4800), generator=generator).to(torch.int16)


def test_simsiam_loss__is_that_of_lightly() -> None:
    negative_cosine = lightly_loss("negative_cosine_similarity", "NegativeCosineSimilarity")()
    p, z = rows(1), rows(2)
    theirs = (negative_cosine(p[:, 0], z[:, 1]) + negative_cosine(p[:, 1], z[:, 0])) / 2
    assert simsiam_loss(p, z).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_simsiam_loss__is_byols_but_for_scale_and_offset() -> None:
    p, z = rows(1), rows(2)
    assert 4 + 4 * simsiam_loss(p, z).item() == pytest.approx(byol_loss(p, z).item(), rel=1e-12)


def test_simsiam_loss__no_gradient_passes_through_the_projections() -> None:
    p, z = rows(1).requires_grad_(), rows(2).requires_grad_()
    simsiam_loss(p, z).backward()
    assert p.grad.abs().max() > 0 and z.grad is None


def test_simsiam__exchanged_views_change_nothing() -> None:
    model, data = small().double(), views()
    losses = [model({"views": each}, PROGRESS).loss.item() for each in (data, data.flip(1))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_simsiam__the_metric_tells_spread_projections_from_collapsed_ones() -> None:
    model = small()
    assert model({"views": views()}, PROGRESS).metrics["projection_feature_std"] > 0.5
    model.projector[-1] = torch.nn.Identity()  # the batch norm would draw the rows apart again
    torch.nn.init.zeros_(model.projector[-2].weight)
    assert model({"views": views()}, PROGRESS).metrics["projection_feature_std"] < 1e-6


def test_simsiam__the_last_bias_of_the_projector_is_frozen_and_without_effect() -> None:
    model, batch = small().double(), {"views": views()}
    before = model(batch, PROGRESS).loss.item()
    bias = model.projector[-2].bias
    with torch.no_grad():
        bias.add_(3.0)
    assert not bias.requires_grad
    assert model(batch, PROGRESS).loss.item() == pytest.approx(before, rel=1e-9)


def test_simsiam__the_predictor_alone_keeps_the_highest_rate() -> None:
    model = small()
    constant = [
        p for g in model.parameter_groups() if not g.get("follows_schedule", True) for p in g["params"]
    ]
    assert set(constant) == set(model.predictor.parameters())


def test_simsiam__rows_of_each_worker_mean_the_loss_of_all() -> None:
    model, data = small().eval(), views()
    whole = model({"views": data}, PROGRESS).loss
    parts = torch.stack([model({"views": part}, PROGRESS).loss for part in data.chunk(2)])
    assert torch.allclose(parts.mean(), whole, rtol=1e-4)


def test_simsiam_config__prediction_and_projection_must_have_one_size() -> None:
    for predictor_dims in ((8, 4), ()):
        with pytest.raises(ValueError, match="same number of units"):
            SimSiam.Config(projector_dims=(8, 8), predictor_dims=predictor_dims)
