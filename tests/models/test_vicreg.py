import pytest

from sslsv.models.terms import vicreg_loss
from tests.encoders.peers import lightly_loss
from tests.models.networks import pair


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)], ids=str)
@pytest.mark.parametrize("weights", [(25, 25, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=str)
def test_vicreg_loss__equals_lightly_which_halves_the_variance(shape, weights) -> None:
    invariance, variance, covariance = weights
    theirs = lightly_loss("vicreg_loss", "VICRegLoss")(*weights)
    expected = theirs(*pair(*shape)).item()
    found = vicreg_loss(*pair(*shape), invariance, variance / 2, covariance)[0].item()
    assert found == pytest.approx(expected, rel=1e-10)
