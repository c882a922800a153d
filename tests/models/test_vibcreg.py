import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.terms import vicreg_loss
from sslsv.models.vibcreg import VIbCReg, vibcreg_loss
from sslsv.ops.whitening import IterNorm

torch.set_num_threads(1)


def projections(rows: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(22)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64) * 0.7
    return a, a + 0.5 * torch.randn(rows, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_vibcreg_loss__covariance_is_the_mean_squared_correlation_in_loops(shape) -> None:
    z_a, z_b = projections(*shape)
    rows, dims = shape
    expected = 0.0
    for z in (z_a.tolist(), z_b.tolist()):
        columns = [[row[d] for row in z] for d in range(dims)]
        centred = [[value - sum(column) / rows for value in column] for column in columns]
        unit = [[value / sum(v * v for v in column) ** 0.5 for value in column] for column in centred]
        for i in range(dims):
            for j in range(dims):
                if i != j:
                    expected += sum(x * y for x, y in zip(unit[i], unit[j], strict=True)) ** 2 / dims**2
    assert vibcreg_loss(z_a, z_b, 0.0, 0.0, 1.0).item() == pytest.approx(expected, rel=1e-10)


def test_vibcreg_loss__invariance_and_variance_are_those_of_vicreg() -> None:
    z_a, z_b = projections(9, 4)
    expected = vicreg_loss(z_a, z_b, 2.0, 3.0, 0.0).item()
    assert vibcreg_loss(z_a, z_b, 2.0, 3.0, 0.0).item() == pytest.approx(expected, rel=1e-12)


def test_vibcreg__projector_ends_whitening_unless_switched_off() -> None:
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    model = VIbCReg(VIbCReg.Config(projector_dims=(8, 8), whitening_groups=2), encoder)
    assert isinstance(model.projector[-1], IterNorm)
    for config in (
        VIbCReg.Config(projector_dims=()),
        VIbCReg.Config(projector_dims=(8,), whitening_groups=0),
    ):
        assert not any(isinstance(m, IterNorm) for m in VIbCReg(config, encoder).modules())


def test_vibcreg_config__groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="whitening_groups is 64, which does not divide .* of 100"):
        VIbCReg.Config(projector_dims=(100,))
