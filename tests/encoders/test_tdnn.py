import pytest
import torch

from sslsv.encoders.fields import WideFeatures
from sslsv.encoders.tdnn import TDNN
from tests.encoders.peers import copy_in_order


@pytest.mark.parametrize(
    ("num_mels", "has_second_layer", "parameters"),
    [(40, True, 4_516_244), (80, True, 4_618_644), (40, False, 4_252_564), (80, False, 4_354_964)],
)
def test_tdnn__has_the_published_number_of_parameters(
    num_mels: int, has_second_layer: bool, parameters: int
) -> None:
    config = TDNN.Config(features=WideFeatures(num_mels=num_mels), has_second_layer=has_second_layer)
    assert sum(p.numel() for p in TDNN(config).parameters()) == parameters


@pytest.mark.parametrize("is_training", [False, True])
def test_tdnn__is_speechbrains_weight_for_weight(is_training: bool) -> None:
    module = pytest.importorskip("speechbrain.lobes.models.Xvector")
    theirs = module.Xvector(in_channels=80)
    theirs.blocks[-2].eps = 0.0  # else it adds noise of 1e-5 to the means, and 1e-5 to the deviations
    ours = TDNN(TDNN.Config(has_second_layer=False))
    copy_in_order(theirs, ours)
    waveforms = 0.1 * torch.randn(3, 24000, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = theirs.train(is_training)(ours.features(waveforms).mT)[:, 0]
        found = ours.train(is_training)(waveforms)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
