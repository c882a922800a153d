import pytest
import torch

from sslsv.models.terms import barlow_twins_loss
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)


def projections(rows: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(23)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64) + 2
    return a, a + 0.5 * torch.randn(rows, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_barlow_twins_loss__equals_equation_1_in_loops(shape) -> None:
    z_a, z_b = projections(*shape)
    rows, dims = shape

    def columns(z: torch.Tensor) -> list[list[float]]:
        result = []
        for column in z.T.tolist():
            mean = sum(column) / rows
            variance = sum((value - mean) ** 2 for value in column) / rows
            result.append([(value - mean) / (variance + 1e-5) ** 0.5 for value in column])
        return result

    a, b = columns(z_a), columns(z_b)
    expected = 0.0
    for i in range(dims):
        for j in range(dims):
            c = sum(x * y for x, y in zip(a[i], b[j], strict=True)) / rows
            expected += (1 - c) ** 2 if i == j else 0.005 * c**2
    assert barlow_twins_loss(z_a, z_b, 0.005, 0.025).item() == pytest.approx(0.025 * expected, rel=1e-10)


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)], ids=str)
def test_barlow_twins_loss__equals_lightly(shape) -> None:
    z_a, z_b = projections(*shape)
    expected = lightly_loss("barlow_twins_loss", "BarlowTwinsLoss")(lambda_param=0.005)(z_a, z_b)
    assert barlow_twins_loss(z_a, z_b, 0.005, 1.0).item() == pytest.approx(expected.item(), rel=1e-10)


def test_barlow_twins_loss__ignores_scale_shift_and_order_of_views() -> None:
    z_a, z_b = projections(40, 6)
    loss = barlow_twins_loss(z_a, z_b, 0.1, 1.0).item()
    assert barlow_twins_loss(z_b, z_a, 0.1, 1.0).item() == pytest.approx(loss, rel=1e-10)
    assert barlow_twins_loss(300 * z_a + 4, z_b, 0.1, 1.0).item() == pytest.approx(
        loss, rel=1e-4
    )  # eps in the scale
