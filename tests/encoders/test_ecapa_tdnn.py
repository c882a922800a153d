import pytest
import torch

from sslsv.encoders.ecapa_tdnn import ECAPATDNN
from sslsv.encoders.fields import WideFeatures

SIZES = [  # num_mels, channels, aggregation_channels, embedding_dim, parameters
    (40, 512, 1536, 512, 7_075_008),
    (80, 512, 1536, 192, 6_194_048),
    (80, 1024, 3072, 192, 20_767_552),
    (80, 1024, 3072, 512, 22_733_952),
    (40, 1024, 3072, 512, 22_529_152),
    (80, 1024, 1536, 512, 15_643_776),
]


def build(num_mels: int, channels: int, aggregation: int, dim: int) -> ECAPATDNN:
    settings = {"channels": channels, "aggregation_channels": aggregation, "embedding_dim": dim}
    return ECAPATDNN(ECAPATDNN.Config(features=WideFeatures(num_mels=num_mels), **settings))


@pytest.mark.parametrize(("num_mels", "channels", "aggregation", "dim", "parameters"), SIZES)
def test_ecapa_tdnn__has_the_published_number_of_parameters(
    num_mels: int, channels: int, aggregation: int, dim: int, parameters: int
) -> None:
    encoder = build(num_mels, channels, aggregation, dim)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize(("channels", "aggregation"), [(512, 1536), (1024, 3072)])
def test_ecapa_tdnn__is_speechbrains_weight_for_weight(channels: int, aggregation: int) -> None:
    module = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN")
    torch.manual_seed(5)
    theirs = module.ECAPA_TDNN(80, channels=[channels] * 4 + [aggregation], lin_neurons=192).train()
    ours = build(80, channels, aggregation, 192).train()
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    names = [name for name in ours.state_dict() if not name.startswith("features.")]
    assert len(names) == len(theirs.state_dict())
    ours.load_state_dict(dict(zip(names, theirs.state_dict().values(), strict=True)))
    waveforms = torch.randn(3, 16000)
    features = ours.features(waveforms)
    expected = theirs(features.mT)[:, 0]
    assert (ours(waveforms) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (ours.eval()(waveforms) - theirs.eval()(features.mT)[:, 0]).abs().max() < 1e-4


def test_ecapa_tdnn__channels_that_cannot_be_cut_in_eight_are_refused() -> None:
    with pytest.raises(ValueError, match="channels"):
        ECAPATDNN.Config(channels=500)
