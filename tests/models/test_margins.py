import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sslsv.models.base import Progress
from sslsv.models.contrast import contrastive_loss, nt_xent_logits
from sslsv.models.fields import MarginConfig, MarginSchedule
from sslsv.models.margins import Margin, add_angle, add_by_quality, multiply_angle, rising_share
from sslsv.models.simclr import SimCLR
from sslsv.settings import ConfigError, build

KINDS = ("am", "aam", "sphereface", "curricularface", "magface", "adaface")
EXACT = ("am", "aam", "sphereface", "magface", "adaface")  # without a margin they equal NT-Xent
COSINES = torch.linspace(-1, 1, 41, dtype=torch.float64)
PROGRESS = Progress(step=4, total_steps=10, epoch=0, total_epochs=1)


class Rows(torch.nn.Identity):
    embedding_dim = 5


def rows(noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    z_a = 20 * torch.randn(6, 5, generator=generator)
    return z_a, z_a + 20 * noise * torch.randn(6, 5, generator=generator)


def simclr(name: str, value: float = 0.2, **settings: Any) -> SimCLR:
    margin = MarginConfig(name=name, value=value, lowest_value=min(0.01, value), **settings)
    return SimCLR(SimCLR.Config(margin=margin), Rows())


def no_margin(name: str) -> float:
    return 1.0 if name == "sphereface" else 0.0


def loss_and_gradient(model: SimCLR, z_a: torch.Tensor, z_b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = [z.clone().requires_grad_() for z in (z_a, z_b)]
    loss = model.loss(*leaves).loss
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("name", KINDS)
def test_margin__half_risen_it_is_in_the_loss_as_its_paper_has_it(name: str) -> None:
    rises = {"schedule": MarginSchedule(name="linear", rise_epochs=(0, 1)), "concentration": 0.5}
    model = (
        simclr(name, 2.0 if name == "sphereface" else 0.3, norm_range=(40.0, 60.0), **rises).double().eval()
    )
    model.after_step(PROGRESS)
    if name in ("curricularface", "adaface"):
        averages = {"curricularface": [0.3], "adaface": [45.0, 8.0]}[name]
        model.margin.averages.copy_(torch.tensor(averages))
    z = torch.cat(rows()).double()
    cosines = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T
    own, norms = torch.arange(12).roll(6)[:, None], z.norm(dim=1)
    cosine = cosines.gather(1, own)[:, 0]
    quality = ((norms - 45) / (8 + 1e-3) * 0.5).clamp(-1, 1)
    # Half of the full margin: of 0.3, and of the range 0.01 to 0.3 in which MagFace's grows with the norm.
    longer = 0.5 * (0.01 + 0.29 * ((norms - 40) / 20).clamp(0, 1))
    positives = {
        "am": cosine - 0.15,
        "aam": (cosine.acos() + 0.15).cos(),
        "sphereface": (1.5 * cosine.acos()).cos(),
        "curricularface": (cosine.acos() + 0.15).cos(),
        "magface": (cosine.acos() + longer).cos(),
        "adaface": (cosine.acos() - 0.15 * quality).cos() - 0.15 * (1 + quality),
    }[name]
    if name == "curricularface":
        cosines = torch.where(cosines > positives[:, None], cosines * (0.3 + cosines), cosines)
    logits = cosines.scatter(1, own, positives[:, None]).fill_diagonal_(-math.inf) / 0.03
    expected = F.cross_entropy(logits, own[:, 0])
    assert model.loss(*z.chunk(2)).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_curricularface__a_margin_of_0_is_not_the_loss_without_one() -> None:
    without = contrastive_loss(*nt_xent_logits(*rows(), 0.03)).item()
    assert simclr("curricularface", 0.0).loss(*rows()).loss.item() < without - 0.01


@pytest.mark.parametrize("noise", [0.5, 0.0])
@pytest.mark.parametrize("name", EXACT)
def test_margin__none_of_it_is_the_loss_of_the_logits_bit_for_bit(name: str, noise: float) -> None:
    pair = rows(noise)
    leaves = [z.clone().requires_grad_() for z in pair]
    loss = contrastive_loss(*nt_xent_logits(*leaves, 0.03))
    expected = (loss.detach(), *torch.autograd.grad(loss, leaves))
    found = loss_and_gradient(simclr(name, no_margin(name)), *pair)
    for value, other in zip(found, expected, strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("name", KINDS)
def test_margin__the_loss_rises_with_it(name: str) -> None:
    pair = (z.double() for z in rows())
    z_a, z_b = pair
    sizes = [no_margin(name) + step for step in (0.0, 0.1, 0.2, 0.4)]
    values = [simclr(name, size).double().loss(z_a, z_b).loss.item() for size in sizes]
    assert values == sorted(values) and len(set(values)) == 4


@pytest.mark.parametrize("name", KINDS)
def test_margin__identical_and_opposite_views_give_finite_gradients(name: str) -> None:
    z_a, _ = rows()
    for z_b in (z_a, -z_a):
        model = simclr(name, 2.0 if name == "sphereface" else 0.2)
        assert all(torch.isfinite(each).all() for each in loss_and_gradient(model, z_a, z_b))


# Left out by design: SphereFace has the gradient of the plain cosine, AdaFace's norms have none.
@pytest.mark.parametrize("name", ["am", "aam", "curricularface", "magface"])
def test_margin__gradient_is_that_of_finite_differences(name: str) -> None:
    model = simclr(name).double().eval()
    pair = [z.double().requires_grad_() for z in rows()]
    assert torch.autograd.gradcheck(lambda a, b: model.loss(a, b).loss, pair)


def test_add_angle__is_the_cosine_of_the_larger_angle_and_falls_on_beyond_pi() -> None:
    cosines = COSINES[:-1]  # without 1, where the sine is clamped
    added, angles = add_angle(cosines, 0.3), cosines.acos() + 0.3
    inner = angles < math.pi
    assert torch.allclose(added[inner], angles[inner].cos())
    assert torch.allclose(added[~inner], cosines[~inner] - 0.3 * math.sin(0.3))


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_multiply_angle__falls_over_the_whole_half_circle_with_the_cosines_gradient(factor: float) -> None:
    cosines = COSINES[1:].clone().requires_grad_()
    multiplied = multiply_angle(cosines, factor)
    assert (multiplied.diff() > 0).all()
    mask = cosines.detach().acos() * factor < math.pi
    assert torch.allclose(multiplied.detach()[mask], (factor * cosines.detach().acos()).cos()[mask])
    multiplied.sum().backward()
    assert torch.equal(cosines.grad, torch.ones_like(cosines))


@pytest.mark.parametrize("quality", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_add_by_quality__is_the_formula_with_the_angle_kept_within_0_and_pi(quality: float) -> None:
    angles = (COSINES.acos() - 0.3 * quality).clamp(0, math.pi)
    expected = angles.cos() - 0.3 * (1 + quality)
    found = add_by_quality(COSINES, 0.3, torch.full_like(COSINES, quality))
    assert torch.allclose(found, expected, atol=2e-4)


def test_curricularface__hard_negatives_are_weighed_by_the_mean_cosine_of_positives() -> None:
    margin = Margin(MarginConfig(name="curricularface", value=0.2), 0.5).double()
    cosines = torch.tensor([[0.5, 0.6, 0.1], [0.7, 0.2, -0.3]], dtype=torch.float64)
    logits, own = cosines / 0.5, torch.zeros(2, 1, dtype=torch.int64)
    margin.observe(logits[:, 0], torch.ones(2, 3))
    found = margin(logits, own, torch.ones(2, 3)) * 0.5
    level = 0.01 * 0.6
    assert found[0].tolist() == pytest.approx([0.3179806, 0.6 * (level + 0.6), 0.1], abs=1e-6)
    assert found[1, 1:].tolist() == pytest.approx([0.2, -0.3])


def test_magface__a_null_range_is_that_of_the_batch_and_the_penalty_asks_for_long_anchors() -> None:
    margin = Margin(MarginConfig(name="magface", norm_range=None, norm_weight=2.0), 1.0)
    anchors = torch.arange(1.0, 102.0)[:, None]
    margin.observe(torch.zeros(101), anchors)
    assert margin.norm_range.tolist() == pytest.approx([6.0, 96.0])
    norms = anchors[:, 0].clamp(6, 96)
    assert margin.penalty(anchors).item() == pytest.approx((2 * (1 / norms + norms / 96**2)).mean().item())
    assert Margin(MarginConfig(name="am"), 1.0).penalty(anchors) == 0


def test_magface__norms_that_are_nearly_alike_give_a_bounded_gradient() -> None:
    margin = Margin(MarginConfig(name="magface", norm_range=None), 1.0)
    anchors = torch.linspace(1.0, 1.0001, 9)[:, None].requires_grad_()
    margin.observe(torch.zeros(9), anchors)
    margin(torch.full((9, 2), 0.5), torch.zeros(9, 1, dtype=torch.int64), anchors)[:, 0].sum().backward()
    assert 0 < anchors.grad.abs().max() <= 0.09 / 0.01  # range of margins / smallest range of norms


@pytest.mark.parametrize("name", ["curricularface", "adaface"])
def test_margin__averages_move_once_a_step_and_not_in_evaluation(name: str) -> None:
    model, pair = simclr(name), rows()
    first = model.margin.averages.clone()
    losses = {model.loss(*pair).loss.item() for _ in range(2)}
    assert len(losses) == 1 and torch.equal(model.margin.averages, first)
    model.after_step(PROGRESS)
    moved = model.margin.averages.clone()
    z_a, z_b = (torch.nn.functional.normalize(z) for z in pair)
    norms = torch.cat(pair).norm(dim=1)
    seen = {"curricularface": [(z_a * z_b).sum(1).mean()], "adaface": [norms.mean(), norms.std()]}[name]
    assert torch.allclose(moved, 0.99 * first + 0.01 * torch.stack(seen))
    model.eval()
    model.loss(*pair)
    model.after_step(PROGRESS)
    assert torch.equal(model.margin.averages, moved)


@pytest.mark.parametrize("name", KINDS)
def test_margin__a_resumed_step_is_the_same_bit_for_bit(name: str) -> None:
    settings = {"schedule": MarginSchedule(name="linear", rise_epochs=(0, 1))}
    value = 2.0 if name == "sphereface" else 0.2
    model, restored = (simclr(name, value, **settings) for _ in range(2))
    model.loss(*rows())
    model.after_step(PROGRESS)
    restored.load_state_dict(model.state_dict())
    assert torch.equal(model.loss(*rows(0.3)).loss, restored.loss(*rows(0.3)).loss)
    assert restored.margin.metrics()["margin"].item() == pytest.approx((value + no_margin(name)) / 2)


@pytest.mark.parametrize(
    ("name", "quarter", "half"),
    [("linear", 0.25, 0.5), ("cosine", 0.14645, 0.5), ("exponential", 0.82217, 0.96838)],
)
def test_rising_share__is_the_formula_between_beginning_and_end(name, quarter, half) -> None:
    schedule = MarginSchedule(name=name, rise_epochs=(20, 40))
    shares = [rising_share(schedule, epochs) for epochs in (0, 20, 25, 30, 40, 90)]
    assert shares == pytest.approx([0.0, 0.0, quarter, half, 1.0, 1.0], abs=1e-5)
    assert rising_share(MarginSchedule(), 0) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sphereface", "value": 0.1}, "value is 0.1; sphereface multiplies"),
        ({"name": "aam", "value": 2.0}, "less than 1.57"),
        ({"name": "magface", "value": 0.1, "lowest_value": 0.2}, "lowest_value is 0.2, above value"),
        ({"name": "magface", "norm_range": (30.0, 10.0)}, "norm_range is"),
        ({"schedule": {"name": "cosine", "rise_epochs": (40, 20)}}, "give a start of 0 or more"),
        ({"schedule": {"rise_epochs": (0, 40)}}, "nothing rises: name is constant"),
    ],
)
def test_margin_config__impossible_margins_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(MarginConfig, settings)
