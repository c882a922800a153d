import pytest

from sslsv.models.terms import barlow_twins_loss
from tests.models.lightly_losses import lightly_loss
from tests.models.networks import pair


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)], ids=str)
def test_barlow_twins_loss__equals_lightly(shape) -> None:
    expected = lightly_loss("barlow_twins_loss", "BarlowTwinsLoss")(lambda_param=0.005)(*pair(*shape))
    assert barlow_twins_loss(*pair(*shape), 0.005, 1.0)[0].item() == pytest.approx(expected.item(), rel=1e-10)


def test_barlow_twins_loss__ignores_scale_shift_and_order_of_views() -> None:
    z_a, z_b = pair(40, 6)
    loss = barlow_twins_loss(z_a, z_b, 0.1, 1.0)[0].item()
    assert barlow_twins_loss(z_b, z_a, 0.1, 1.0)[0].item() == pytest.approx(loss, rel=1e-10)
    scaled = barlow_twins_loss(300 * z_a + 4, z_b, 0.1, 1.0)[0].item()
    assert scaled == pytest.approx(loss, rel=1e-4)  # eps is not scaled
