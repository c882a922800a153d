import pytest
import torch

from sslsv.encoders.eres2netv2 import ERes2NetV2
from tests.encoders.peers import copy_in_order, largest_difference, peer_module


@pytest.mark.parametrize(
    ("base_width", "scale", "expansion", "parameters"), [(26, 2, 2, 17_859_632), (24, 4, 4, 53_513_632)]
)
def test_eres2netv2__has_the_published_number_of_parameters(
    base_width: int, scale: int, expansion: int, parameters: int
) -> None:
    config = ERes2NetV2.Config(base_width=base_width, scale=scale, expansion=expansion)
    with torch.device("meta"):
        encoder = ERes2NetV2(config)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("is_training", [False, True])
def test_eres2netv2__is_3d_speakers_weight_for_weight(is_training: bool) -> None:
    theirs = peer_module("speakerlab.models.eres2net.ERes2NetV2").ERes2NetV2(feat_dim=80, embedding_size=192)
    ours = ERes2NetV2()
    copy_in_order(theirs, ours)
    assert largest_difference(theirs, ours, is_training, num_samples=12000) < 1e-6
