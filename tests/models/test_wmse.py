import dataclasses

import pytest
import torch

from sslsv.config import Config
from sslsv.models.wmse import WMSE, whiten, wmse_loss
from sslsv.settings import ConfigError, apply_overrides
from tests.encoders.peers import lightly_loss
from tests.models.networks import PROGRESS, small


def rows(count: int = 16, seed: int = 1, dim: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + 3.0


def model(**settings: object) -> WMSE:
    return small(WMSE, **{"projector_dims": (12, 4), "group_size": 8, **settings})


def test_whiten__mean_is_0_and_covariance_the_identity() -> None:
    white = whiten(rows())
    assert white.mean(0).abs().max() < 1e-12
    assert torch.allclose(white.T @ white / 15, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_whiten__a_lower_triangular_map_changes_nothing_and_a_rotation_does() -> None:
    generator = torch.Generator().manual_seed(5)
    lower = torch.randn(4, 4, generator=generator, dtype=torch.float64).tril(-1)
    lower += torch.diag(torch.tensor([0.5, 2.0, 7.0, 0.1], dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    assert torch.allclose(whiten(rows() @ lower.T), whiten(rows()), atol=1e-9)
    assert not torch.allclose(whiten(rows() @ rotation.T), whiten(rows()), atol=0.1)


def test_whiten__float32_rows_that_are_nearly_dependent_stay_exact() -> None:
    generator = torch.Generator().manual_seed(6)
    scales = torch.logspace(0, -3, 64)
    mixing = torch.randn(64, 64, generator=generator)
    white = whiten((torch.randn(128, 64, generator=generator) * scales) @ mixing)
    error = white.T @ white / 127 - torch.eye(64, dtype=torch.float64)
    assert error.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("count", "shrinkage", "is_finite"), [(4, 0.0, False), (4, 1e-3, True), (5, 0.0, True)]
)
def test_whiten__too_few_rows_give_nan_unless_they_are_shrunk(count, shrinkage, is_finite) -> None:
    assert bool(whiten(rows(count), shrinkage).isfinite().all()) == is_finite


@pytest.mark.parametrize("group_size", [8, 16])
def test_wmse_loss__is_that_of_lightly_group_by_group(group_size: int) -> None:
    theirs = lightly_loss("wmse_loss", "WMSELoss")(4, w_size=group_size, track_running_stats=False)
    z_a, z_b = rows(seed=1), rows(seed=2)
    torch.manual_seed(9)
    order = torch.randperm(16)
    torch.manual_seed(9)
    expected = theirs(torch.cat([z_a, z_b])).item()
    assert wmse_loss(z_a, z_b, order, group_size).item() == pytest.approx(expected, rel=1e-6)


def test_wmse_loss__equal_views_cost_nothing_and_independent_ones_2() -> None:
    order = torch.arange(16)
    assert wmse_loss(rows(), rows(), order, 8).item() == pytest.approx(0, abs=1e-12)
    a, b = (torch.randn(8192, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert wmse_loss(a, b, torch.arange(8192), 128).item() == pytest.approx(2.0, abs=0.01)


def test_wmse__partitions_depend_on_the_step_alone_and_are_averaged() -> None:
    wmse, (z_a, z_b) = model(num_partitions=3), (rows(seed=1), rows(seed=2))
    generator = PROGRESS.generator()
    orders = [torch.randperm(16, generator=generator) for _ in range(3)]
    expected = sum(wmse_loss(z_a, z_b, order, 8).item() for order in orders) / 3
    for seed in (1, 2):
        torch.manual_seed(seed)  # workers have different global seeds in PyTorch
        assert wmse.loss_at(z_a, z_b, PROGRESS).loss.item() == pytest.approx(expected, rel=1e-12)
    later = dataclasses.replace(PROGRESS, step=4)
    assert wmse.loss_at(z_a, z_b, later).loss.item() != pytest.approx(expected, rel=1e-3)


def test_wmse__a_collapse_is_not_finite_and_no_exception() -> None:
    constant = torch.ones(16, 4)
    output = model().loss_at(constant, constant, PROGRESS)
    assert output.loss.isnan() and output.metrics["projection_feature_std"] == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"projector_dims": (8, 5)}, "group_size is 8, .* raise it to 10"),
        ({"projector_dims": ()}, "projector_dims is empty"),
    ],
)
def test_wmse_config__groups_too_small_for_their_dimensions_are_refused(settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        model(**settings)


def test_wmse_config__groups_must_fill_the_batch() -> None:
    sentence = "train.batch_size is 192, not a multiple of model.group_size .128.; use a multiple"
    with pytest.raises(ConfigError, match=sentence):
        apply_overrides(Config(), ["model.name=wmse", "train.batch_size=192"])
