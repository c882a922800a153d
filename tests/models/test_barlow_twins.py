import pytest

from sslsv.models.terms import barlow_twins_loss
from tests.encoders.peers import lightly_loss
from tests.models.networks import pair


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)], ids=str)
def test_barlow_twins_loss__equals_lightly(shape) -> None:
    expected = lightly_loss("barlow_twins_loss", "BarlowTwinsLoss")(lambda_param=0.005)(*pair(*shape))
    assert barlow_twins_loss(*pair(*shape), 0.005, 1.0)[0].item() == pytest.approx(expected.item(), rel=1e-10)
