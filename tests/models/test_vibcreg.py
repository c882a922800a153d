import pytest

from sslsv.models.terms import vicreg_loss
from sslsv.models.vibcreg import VIbCReg, vibcreg_loss
from sslsv.ops.whitening import IterNorm
from tests.models.networks import pair, small


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_vibcreg_loss__covariance_is_the_mean_squared_correlation_in_loops(shape) -> None:
    rows, dims = shape
    expected = 0.0
    for z in pair(*shape):
        columns = z.T.tolist()
        centred = [[value - sum(column) / rows for value in column] for column in columns]
        unit = [[value / sum(v * v for v in column) ** 0.5 for value in column] for column in centred]
        for i in range(dims):
            for j in range(dims):
                if i != j:
                    expected += sum(x * y for x, y in zip(unit[i], unit[j], strict=True)) ** 2 / dims**2
    assert vibcreg_loss(*pair(*shape), 0.0, 0.0, 1.0)[0].item() == pytest.approx(expected, rel=1e-10)


def test_vibcreg_loss__invariance_and_variance_are_those_of_vicreg() -> None:
    expected = vicreg_loss(*pair(9, 4), 2.0, 3.0, 0.0)[0].item()
    assert vibcreg_loss(*pair(9, 4), 2.0, 3.0, 0.0)[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("dims", "groups", "whitens"), [((8, 8), 2, True), ((), 64, False), ((8,), 0, False)]
)
def test_vibcreg__projector_ends_whitening_unless_switched_off(dims, groups, whitens) -> None:
    model = small(VIbCReg, projector_dims=dims, whitening_groups=groups)
    assert any(isinstance(layer, IterNorm) for layer in [*model.projector][-1:]) == whitens


def test_vibcreg_config__groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="whitening_groups is 64, which does not divide .* of 100"):
        VIbCReg.Config(projector_dims=(100,))
