import pytest

from sslsv.encoders.eres2netv2 import ERes2NetV2
from tests.encoders.peers import count_parameters


@pytest.mark.parametrize(("base_width", "scale", "parameters"), [(26, 2, 17_859_632), (24, 4, 53_513_632)])
def test_eres2netv2__has_the_published_number_of_parameters(
    base_width: int, scale: int, parameters: int
) -> None:
    sizes = {"base_width": base_width, "scale": scale, "expansion": scale}
    assert count_parameters(ERes2NetV2, **sizes) == parameters


def test_config__parts_without_a_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 2 and base_width 26, which leave no channel in a part"):
        ERes2NetV2.Config(width=2)
    assert count_parameters(ERes2NetV2, width=2, base_width=32) > 0
