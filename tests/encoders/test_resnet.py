import pytest

from sslsv.encoders.resnet import ResNet
from tests.encoders.peers import count_parameters

SIZES = {18: 4_105_440, 34: 6_634_336, 50: 11_131_360, 101: 15_892_448, 221: 23_792_224, 293: 28_626_016}


@pytest.mark.parametrize(("depth", "parameters"), SIZES.items())
def test_resnet__has_the_published_number_of_parameters(depth: int, parameters: int) -> None:
    assert count_parameters(ResNet, depth=depth) == parameters
