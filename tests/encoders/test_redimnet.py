import contextlib
import math

import pytest

from sslsv.encoders import redimnet
from sslsv.encoders.redimnet import ReDimNet
from sslsv.settings import ConfigError, build
from tests.encoders.peers import count_parameters

SIZES = {
    "b0": 1_001_851, "b1": 2_123_481, "b2": 4_888_241, "b3": 3_220_413, "b4": 6_432_305, "b5": 7_650_545,
    "b6": 15_006_257,
}  # fmt: skip


@pytest.mark.parametrize(("size", "parameters"), SIZES.items())
def test_redimnet__has_the_published_number_of_parameters_but_a_constant(size: str, parameters: int) -> None:
    features = {"num_mels": 60 if size == "b0" else 72}
    assert count_parameters(ReDimNet, size=size, features=features) == parameters - 1


@pytest.mark.parametrize("size", SIZES)
def test_config__bands_that_the_stages_cannot_divide_are_refused(size: str) -> None:
    made = redimnet.SIZES[size]
    product = math.prod(stride for stride, *_ in made.stages)
    for num_mels in range(1, 150):
        hidden = [made.channels * num_mels // divisor for *_, divisor in made.stages if divisor]
        fits = num_mels % product == 0 and not any(each % 4 for each in hidden)  # four heads
        sentence = (
            f"features.num_mels is {num_mels}, which the stages of ReDimNet {size} cannot divide; give a"
        )
        with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=sentence):
            build(ReDimNet.Config, {"features": {"num_mels": num_mels, "kind": "log_mel"}, "size": size})
