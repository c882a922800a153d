import pytest

from sslsv.encoders.eres2netv2 import ERes2NetV2
from tests.encoders.peers import count_parameters


@pytest.mark.parametrize(("base_width", "scale", "parameters"), [(26, 2, 17_859_632), (24, 4, 53_513_632)])
def test_eres2netv2__has_the_published_number_of_parameters(
    base_width: int, scale: int, parameters: int
) -> None:
    sizes = {"base_width": base_width, "scale": scale, "expansion": scale}
    assert count_parameters(ERes2NetV2, **sizes) == parameters
