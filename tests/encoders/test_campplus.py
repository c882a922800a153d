import pytest
import torch

from sslsv.encoders.campplus import CAMPlusPlus
from tests.encoders.peers import copy_in_order, largest_difference, peer_module


@pytest.mark.parametrize(("embedding_dim", "parameters"), [(512, 7_176_224), (192, 6_848_544)])
def test_campplus__has_the_published_number_of_parameters(embedding_dim: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = CAMPlusPlus(CAMPlusPlus.Config(embedding_dim=embedding_dim))
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("is_training", [False, True])
def test_campplus__is_3d_speakers_weight_for_weight(is_training: bool) -> None:
    theirs = peer_module("speakerlab.models.campplus.DTDNN").CAMPPlus(feat_dim=80, embedding_size=512)
    ours = CAMPlusPlus()
    copy_in_order(theirs, ours)
    # Three seconds: 74 frames past the first segment of the masks.
    assert largest_difference(theirs, ours, is_training, num_samples=48000) < 1e-5
