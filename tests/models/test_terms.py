import math

import pytest
import torch

from sslsv.models import terms as losses
from tests.encoders.peers import lightly_loss, peer_module
from tests.models.networks import normal


@pytest.fixture(params=[(12, 5), (5, 12), (7, 7)], ids=["rows > dims", "rows < dims", "square"])
def views(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(request.param, generator=generator, dtype=torch.float64) * 2 + 1
    return a, a + torch.randn(request.param, generator=generator, dtype=torch.float64)


def test_cross_products__equal_the_double_sum(views) -> None:
    a, b = views
    for z_b in (b, None):
        products = [
            [(column * other).sum().item() for other in (a if z_b is None else b).T] for column in a.T
        ]
        energy, diagonal = losses.cross_products(a, z_b)
        expected = sum(p**2 for i, row in enumerate(products) for j, p in enumerate(row) if i != j)
        assert energy.item() == pytest.approx(expected, rel=1e-12)
        assert diagonal.tolist() == pytest.approx([row[i] for i, row in enumerate(products)], rel=1e-12)


def test_cross_products__gradients_are_those_of_finite_differences(views) -> None:
    a, b = (view.clone().requires_grad_() for view in views)
    assert torch.autograd.gradcheck(losses.cross_products, (a, b))
    assert torch.autograd.gradcheck(losses.cross_products, (a,))


def test_cross_products__gram_form_keeps_float32_digits() -> None:
    z = torch.randn(64, 512, generator=torch.Generator().manual_seed(4))
    z = z - z.mean(0)
    exact, _ = losses.cross_products(z.double())
    for energy, _ in (losses.cross_products(z), losses.cross_products(z, z)):
        assert energy.item() == pytest.approx(exact.item(), rel=1e-5)


def test_variance_and_covariance__equal_torch_cov(views) -> None:
    for z in views:
        matrix = torch.cov((0.3 * z).T)
        energy = (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
        hinge = (1 - (matrix.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
        variance, covariance = losses.variance_and_covariance(0.3 * z)
        assert covariance.item() == pytest.approx(energy.item(), rel=1e-12)
        assert variance.item() == pytest.approx(hinge.item(), rel=1e-12) and variance.item() > 0
        assert losses.variance_hinge(0.3 * z).item() == pytest.approx(variance.item(), rel=1e-12)


def test_correlation_penalty__equals_torch_corrcoef_and_ignores_scale(views) -> None:
    for z in views:
        correlation = torch.corrcoef(z.T).fill_diagonal_(0)
        value = losses.correlation_penalty(z).item()
        assert value == pytest.approx(correlation.square().mean().item(), rel=1e-12)
        scales = torch.arange(1, z.shape[1] + 1)
        assert losses.correlation_penalty(z * scales + 7).item() == pytest.approx(value, rel=1e-10)


def test_variance_hinge__is_zero_when_spread_and_near_one_when_collapsed() -> None:
    spread = torch.tensor([[-2.0, 3.0], [2.0, -3.0]])
    assert losses.variance_hinge(spread).item() == 0
    collapsed = torch.ones(4, 3, requires_grad=True)
    value = losses.variance_hinge(collapsed)
    value.backward()
    assert value.item() == pytest.approx(1 - 1e-4**0.5, rel=1e-6) and collapsed.grad.isfinite().all()


def test_sigreg__is_that_of_lightly_with_the_same_directions(monkeypatch) -> None:
    theirs = lightly_loss("lejepa_loss", "SIGReg")(num_vectors=32).double()
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    directions = (directions / directions.norm(dim=0)).double()
    monkeypatch.setattr(theirs, "_generate_unit_vectors", lambda *_, **__: directions)
    rows = 2 * normal(3, 40, 5) + 1  # three views
    value = losses.sigreg(rows, torch.Generator().manual_seed(2), 32)
    assert value.item() == pytest.approx(theirs(rows).item(), rel=1e-6)  # the peer's knots are float32


@pytest.mark.parametrize(("samples", "dims"), [(20, 4), (80, 16)])
def test_sigreg__of_normal_rows_is_1_05_on_average_and_of_zeros_0_40205_a_row(samples, dims) -> None:
    generator = torch.Generator().manual_seed(2)
    value = losses.sigreg(normal(400, samples, dims), generator, 8).item()
    assert value == pytest.approx(1.0525, abs=0.03)
    zeros = losses.sigreg(torch.zeros(samples, dims), generator, 16).item()
    assert zeros == pytest.approx(0.40205 * samples, rel=1e-4)


KOLEO_PEERS = {
    "lightly": lambda: lightly_loss("koleo_loss", "KoLeoLoss"),
    "speakerlab": lambda: peer_module("speakerlab.loss.keleo_loss").KoLeoLoss,
}


@pytest.mark.parametrize("peer", KOLEO_PEERS)
def test_koleo__value_and_gradient_are_those_of(peer: str) -> None:
    ours = torch.randn(9, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    values = losses.koleo(ours), KOLEO_PEERS[peer]()()(theirs)
    for value in values:
        value.backward()
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_koleo__two_orthogonal_rows_of_any_length_give_minus_half_ln_2() -> None:
    assert losses.koleo(torch.tensor([[3.0, 0.0], [0.0, 0.2]])).item() == pytest.approx(-math.log(2) / 2)


def test_koleo__equal_rows_get_no_gradient() -> None:
    rows = torch.ones(3, 5).requires_grad_()
    value = losses.koleo(rows)
    value.backward()
    assert value.item() == pytest.approx(13.8, abs=0.1) and rows.grad.abs().max() == 0
