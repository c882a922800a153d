import pytest
import torch

from sslsv.encoders.resnet import ResNet
from tests.encoders.peers import copy_in_order, largest_difference, peer_module

SIZES = {18: 4_105_440, 34: 6_634_336, 50: 11_131_360, 101: 15_892_448, 221: 23_792_224, 293: 28_626_016}


@pytest.mark.parametrize(("depth", "parameters"), SIZES.items())
def test_resnet__has_the_published_number_of_parameters(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = ResNet(ResNet.Config(depth=depth))  # type: ignore[arg-type]
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("depth", [34, 50])
@pytest.mark.parametrize("is_training", [False, True])
def test_resnet__is_wespeakers_weight_for_weight(depth: int, is_training: bool) -> None:
    module = peer_module("wespeaker.models.resnet")
    theirs = getattr(module, f"ResNet{depth}")(feat_dim=80, embed_dim=256)
    ours = ResNet(ResNet.Config(depth=depth))  # type: ignore[arg-type]
    copy_in_order(theirs, ours)
    assert largest_difference(theirs, ours, is_training) < 1e-6
