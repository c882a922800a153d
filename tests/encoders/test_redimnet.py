import pytest
import torch

from sslsv.encoders.fields import KaldiFeatures
from sslsv.encoders.redimnet import ReDimNet
from tests.encoders.peers import copy_in_order, largest_difference, peer_module

SIZES = {
    "b0": 1_001_851, "b1": 2_123_481, "b2": 4_888_241, "b3": 3_220_413, "b4": 6_432_305, "b5": 7_650_545,
    "b6": 15_006_257,
}  # fmt: skip


def build(size: str) -> ReDimNet:
    features = KaldiFeatures(num_mels=60 if size == "b0" else 72)
    return ReDimNet(ReDimNet.Config(size=size, features=features))  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "parameters"), SIZES.items())
def test_redimnet__has_the_published_number_of_parameters_but_a_constant(size: str, parameters: int) -> None:
    with torch.device("meta"):
        encoder = build(size)
    assert sum(p.numel() for p in encoder.parameters()) == parameters - 1


@pytest.mark.parametrize("size", ["b0", "b1", "b3"])
@pytest.mark.parametrize("is_training", [False, True])
def test_redimnet__is_wespeakers_weight_for_weight(size: str, is_training: bool) -> None:
    theirs = getattr(peer_module("wespeaker.models.redimnet"), f"ReDimNet{size.upper()}")()
    # The constant weight of the first stage's only input.
    theirs.backbone.inputs_weights[0] = None
    ours = build(size)
    copy_in_order(theirs, ours)
    theirs.backbone.inputs_weights[0] = torch.nn.Parameter(torch.ones(1, 1, 1, 1))
    assert largest_difference(theirs, ours, is_training, num_samples=12000) < 1e-6


def test_redimnet__bands_that_the_stages_cannot_divide_are_refused() -> None:
    with pytest.raises(
        ValueError, match="num_mels is 80, which the stages of ReDimNet b2 cannot divide; give 72"
    ):
        ReDimNet(ReDimNet.Config(features=KaldiFeatures(num_mels=80)))
