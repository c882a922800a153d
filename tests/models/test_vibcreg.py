import pytest

from sslsv.models.terms import correlation_penalty, vicreg_loss
from sslsv.models.vibcreg import VIbCReg, vibcreg_loss
from sslsv.ops.whitening import IterNorm
from tests.models.networks import pair, small


def test_vibcreg_loss__is_vicreg_with_correlations_in_place_of_covariances() -> None:
    expected = vicreg_loss(*pair(9, 4), 2.0, 3.0, 0.0)[0] + 5.0 * sum(map(correlation_penalty, pair(9, 4)))
    found = vibcreg_loss(*pair(9, 4), 2.0, 3.0, 5.0)[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("dims", "groups", "whitens"), [((8, 8), 2, True), ((), 64, False), ((8,), 0, False)]
)
def test_vibcreg__projector_ends_whitening_unless_switched_off(dims, groups, whitens) -> None:
    model = small(VIbCReg, projector_dims=dims, whitening_groups=groups)
    assert any(isinstance(layer, IterNorm) for layer in [*model.projector][-1:]) == whitens


def test_vibcreg_config__groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="whitening_groups is 64, which does not divide .* of 100"):
        VIbCReg.Config(projector_dims=(100,))
