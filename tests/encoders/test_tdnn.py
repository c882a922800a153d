import pytest

from sslsv.encoders.tdnn import TDNN
from tests.encoders.peers import count_parameters


@pytest.mark.parametrize(
    ("num_mels", "has_second_layer", "parameters"),
    [(40, True, 4_516_244), (80, True, 4_618_644), (40, False, 4_252_564), (80, False, 4_354_964)],
)
def test_tdnn__has_the_published_number_of_parameters(
    num_mels: int, has_second_layer: bool, parameters: int
) -> None:
    settings = {"features": {"num_mels": num_mels}, "has_second_layer": has_second_layer}
    assert count_parameters(TDNN, **settings) == parameters
