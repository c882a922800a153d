import pytest
import torch

from sslsv.models.terms import vicreg_loss
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)


def projections(rows: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(21)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64) * 0.7
    return a, a + 0.5 * torch.randn(rows, dims, generator=generator, dtype=torch.float64)


def slow_vicreg(z_a: torch.Tensor, z_b: torch.Tensor, weights: tuple[float, float, float]) -> float:
    rows, dims = z_a.shape
    invariance = sum((z_a[n, d] - z_b[n, d]).item() ** 2 for n in range(rows) for d in range(dims)) / (
        rows * dims
    )
    variance = covariance = 0.0
    for z in (z_a.tolist(), z_b.tolist()):
        means = [sum(row[d] for row in z) / rows for d in range(dims)]
        for i in range(dims):
            for j in range(dims):
                value = sum((row[i] - means[i]) * (row[j] - means[j]) for row in z) / (rows - 1)
                if i == j:
                    variance += max(0.0, 1 - (value + 1e-4) ** 0.5) / dims
                else:
                    covariance += value**2 / dims
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
@pytest.mark.parametrize(
    "weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], ids=str
)
def test_vicreg_loss__equals_equations_1_to_6_in_loops(shape, weights) -> None:
    z_a, z_b = projections(*shape)
    assert vicreg_loss(z_a, z_b, *weights).item() == pytest.approx(slow_vicreg(z_a, z_b, weights), rel=1e-10)


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)], ids=str)
def test_vicreg_loss__equals_lightly_which_halves_the_variance(shape) -> None:
    z_a, z_b = projections(*shape)
    expected = lightly_loss("vicreg_loss", "VICRegLoss")(lambda_param=25.0, mu_param=25.0, nu_param=1.0)(
        z_a, z_b
    )
    assert vicreg_loss(z_a, z_b, 25.0, 12.5, 1.0).item() == pytest.approx(expected.item(), rel=1e-10)


def test_vicreg_loss__identical_views_have_no_invariance_and_a_shift_changes_nothing() -> None:
    z_a, z_b = projections(9, 4)
    assert vicreg_loss(z_a, z_a, 1.0, 0.0, 0.0).item() == 0
    loss = vicreg_loss(z_a, z_b, 1.0, 1.0, 0.1).item()
    assert vicreg_loss(z_b + 5, z_a + 5, 1.0, 1.0, 0.1).item() == pytest.approx(loss, rel=1e-10)
