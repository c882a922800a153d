import pytest

from sslsv.encoders.redimnet import ReDimNet
from tests.encoders.peers import count_parameters

SIZES = {
    "b0": 1_001_851, "b1": 2_123_481, "b2": 4_888_241, "b3": 3_220_413, "b4": 6_432_305, "b5": 7_650_545,
    "b6": 15_006_257,
}  # fmt: skip


@pytest.mark.parametrize(("size", "parameters"), SIZES.items())
def test_redimnet__has_the_published_number_of_parameters_but_a_constant(size: str, parameters: int) -> None:
    features = {"num_mels": 60 if size == "b0" else 72}
    assert count_parameters(ReDimNet, size=size, features=features) == parameters - 1


def test_redimnet__bands_that_the_stages_cannot_divide_are_refused() -> None:
    sentence = "num_mels is 80, which the stages of ReDimNet b2 cannot divide; give 72"
    with pytest.raises(ValueError, match=sentence):
        count_parameters(ReDimNet, features={"num_mels": 80})
