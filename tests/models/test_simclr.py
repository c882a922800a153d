import math

import pytest
import torch

from sslsv.models.simclr import SimCLR, nt_xent_loss
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)


def projections(rows: int = 6, dims: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(20)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64)
    return a, a + 0.5 * torch.randn(rows, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.03, 0.5])
def test_nt_xent_loss__equals_algorithm_1_in_loops(temperature: float) -> None:
    z_a, z_b = projections()
    z = [*z_a, *z_b]
    count = len(z_a)

    def similarity(i: int, j: int) -> float:
        return ((z[i] @ z[j]) / (z[i].norm() * z[j].norm())).item() / temperature

    total = 0.0
    for i in range(2 * count):
        positive = (i + count) % (2 * count)
        denominator = sum(math.exp(similarity(i, k)) for k in range(2 * count) if k != i)
        total += -math.log(math.exp(similarity(i, positive)) / denominator)
    assert nt_xent_loss(z_a, z_b, temperature).item() == pytest.approx(total / (2 * count), rel=1e-10)


def test_nt_xent_loss__equals_lightly() -> None:
    z_a, z_b = (z.float() for z in projections(16, 32))
    expected = lightly_loss("ntx_ent_loss", "NTXentLoss")(temperature=0.1)(z_a, z_b)
    assert nt_xent_loss(z_a, z_b, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_nt_xent_loss__ignores_length_order_of_views_and_of_rows() -> None:
    z_a, z_b = projections()
    loss = nt_xent_loss(z_a, z_b, 0.1).item()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for a, b in ((z_b, z_a), (7 * z_a, 0.1 * z_b), (z_a[order], z_b[order])):
        assert nt_xent_loss(a, b, 0.1).item() == pytest.approx(loss, rel=1e-10)


def test_nt_xent_loss__collapsed_batch_is_chance_among_the_others() -> None:
    z = torch.ones(8, 4)
    assert nt_xent_loss(z, z, 0.03).item() == pytest.approx(math.log(15), rel=1e-5)


def test_simclr__accuracy_is_one_for_identical_views_and_zero_for_swapped_ones() -> None:
    class Identity(torch.nn.Identity):
        embedding_dim = 4

    model = SimCLR(SimCLR.Config(), Identity())
    z = torch.eye(4)
    output = model.loss(z, z)
    assert output.metrics["accuracy"] == 1
    assert output.loss.item() == pytest.approx(nt_xent_loss(z, z, 0.03).item())
    assert model.loss(z, z.roll(1, 0)).metrics["accuracy"] == 0
