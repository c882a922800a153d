"""Check the rules that every encoder must follow; encoders are found by their files."""

import pytest
import torch

from sslsv import registry
from sslsv.encoders.base import Encoder
from sslsv.settings import build

NAMES = registry.names("encoders")
# Small networks: the defaults have up to 94 million weights and may freeze parts.
SETTINGS = {
    "ecapa_tdnn": {"channels": 64, "aggregation_channels": 96},
    "eres2netv2": {"width": 16},
    "redimnet": {"size": "b0", "features": {"num_mels": 60}},
    "resnet": {"depth": 18, "width": 8},
    "simple_audio_cnn": {"channels": 64},
    "speech_transformer": {"num_layers": 1, "front_frozen": False},
}


def small(name: str, **features: str) -> Encoder:
    torch.manual_seed(5)
    kind, settings = registry.find("encoders", name), SETTINGS.get(name, {})
    if features:
        settings = settings | {"features": settings.get("features", {}) | features}
    encoder: Encoder = kind(build(kind.Config, settings))
    return encoder


def waveforms(rows: int = 2, samples: int = 8000) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", NAMES)
def test_encoder__gives_the_frames_and_embeddings_that_it_states(name: str) -> None:
    encoder = small(name).eval()
    with torch.no_grad():
        frames = encoder.frames(waveforms())
        assert frames.shape[:2] == (2, encoder.frame_dim)
        assert encoder.pool(frames).shape == (2, encoder.embedding_dim)
        torch.testing.assert_close(encoder.pool(frames), encoder(waveforms()))


@pytest.mark.parametrize("name", NAMES)
def test_encoder__embeds_the_shortest_waveform_that_it_states(name: str) -> None:
    has_features = "features" in registry.settings_class("encoders", name).__dataclass_fields__
    for features in ({"kind": "log_mel"}, {"kind": "kaldi"}) if has_features else ({},):
        encoder = small(name, **features).eval()
        with torch.no_grad():
            assert encoder(waveforms(2, encoder.min_samples)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_source__random_weights_are_not_frozen(name: str) -> None:
    kind = registry.settings_class("encoders", name)
    with pytest.raises(ValueError, match="encoder.frozen is true, but random weights would stay as they are"):
        build(kind, {"frozen": True}).source()
    assert build(kind, {"frozen": True, "init": "runs/a"}).source() == "runs/a"


@pytest.mark.parametrize("name", NAMES)
def test_encoder__pooling_modules_are_what_frames_do_not_need(name: str) -> None:
    encoder = small(name)
    for part in encoder.pooling_modules:
        encoder.get_submodule(part).requires_grad_(False)
    frames = encoder.frames(waveforms())
    if frames.requires_grad:  # otherwise the frames depend on no weights
        frames.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_encoder__recomputing_changes_nothing(name: str) -> None:
    states, gradients = [], []
    for is_recomputed in (False, True):
        encoder = small(name)
        encoder.recomputes_activations = is_recomputed
        encoder(waveforms()).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
        states.append(list(encoder.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_encoder__channels_last_is_the_same_network(name: str) -> None:
    encoder = small(name).eval()
    with torch.no_grad():
        expected = encoder(waveforms())
        found = encoder.to(memory_format=torch.channels_last)(waveforms())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
