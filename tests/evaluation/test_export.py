import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from sslsv import registry
from sslsv.encoders.features import Spectrogram
from sslsv.encoders.fields import Features, KaldiFeatures
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.export import ConvolutionalSpectrogram, load_encoder, pack_encoder, pack_onnx, traceable

TINY = ThinResNet34.Config(width=2, embedding_dim=8)
SETTINGS = {
    "default": TINY,
    "stats": replace(TINY, pooling="stats"),
    "3x3": replace(TINY, stem="3x3", features=Features(pre_emphasis=0.97, num_mels=30)),
    "else": replace(
        TINY,
        pooling="asp",
        stem_time_stride=2,
        last_stride=2,
        has_squeeze_excitation=False,
        embedding_batchnorm=True,
    ),
}


def trained_encoder(config):
    """Return an encoder with non-initial running statistics."""
    torch.manual_seed(5)
    encoder = ThinResNet34(config).train()
    with torch.no_grad():
        for _ in range(20):
            encoder(torch.randn(8, 8000) / 10)
    return encoder.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(pack_encoder(trained_encoder(TINY), {"model": "simclr", "step": "12"}))
    return path


def test_load_encoder__embeddings_are_equal_bit_for_bit(tmp_path):
    config = SETTINGS["else"]
    encoder = trained_encoder(config).to(memory_format=torch.channels_last)
    (tmp_path / "e.safetensors").write_bytes(pack_encoder(encoder, {}))
    before = torch.get_rng_state()
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training and loaded.config == config
    waveforms = torch.randn(3, 9000)
    with torch.no_grad():
        assert torch.equal(loaded(waveforms), encoder(waveforms))


def test_pack_encoder__the_file_says_what_was_given_and_what_the_encoder_is(file):
    with safetensors.safe_open(file, framework="pt") as content:
        facts = content.metadata()
    settings = json.loads(facts.pop("encoder"))
    assert (settings["name"], settings["features"]["num_mels"]) == ("thin_resnet34", 40)
    told = {"model": "simclr", "step": "12"}
    assert facts == told | {"format": "sslsv encoder 1", "sample_rate": "16000", "embedding_dim": "8"}


def test_load_encoder__imports_nothing_of_the_training(file):
    program = (
        "import sys; from sslsv.evaluation.export import load_encoder; "
        f"load_encoder({str(file)!r}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"torch", "safetensors", "sslsv.encoders.thin_resnet34"} <= imported
    assert not imported & {"ray", "yaml", "pyarrow", "wandb", "onnx", "onnxruntime", "matplotlib"}


def test_load_encoder__a_file_that_is_none_is_refused_in_a_sentence(file, monkeypatch):
    content = file.read_bytes()
    for damaged in (content[:-100], b"", b"RIFF and so on"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"encoder\.safetensors is damaged, or no encoder"):
            load_encoder(file)
    safetensors.torch.save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"its format is None, not 'sslsv encoder 1'"):
        load_encoder(file)
    file.write_bytes(content)
    monkeypatch.setattr(registry, "names", lambda package: ["another"])
    with pytest.raises(ValueError, match="this version of sslsv can build .*export it again"):
        load_encoder(file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*encoder\.safetensors"):
        load_encoder(file)


@pytest.mark.parametrize(
    "settings",
    [Features(), Features(num_mels=80, pre_emphasis=0.97), KaldiFeatures()],
    ids=["plain", "emphasis", "kaldi"],
)
@pytest.mark.parametrize("samples", [400, 4799, 16000])
def test_convolutional_spectrogram__equals_the_spectrogram(settings, samples):
    features = Spectrogram(settings)
    torch.manual_seed(0)
    time = torch.arange(samples) / 16000
    waveforms = torch.stack([torch.randn(samples) / 10, torch.sin(2000 * time) / 2, torch.zeros(samples)])
    expected = features(waveforms)
    torch.testing.assert_close(ConvolutionalSpectrogram(features)(waveforms), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_traceable__equals_the_encoder_and_leaves_it_alone(config):
    encoder = trained_encoder(config)
    waveforms = torch.randn(2, 12000) / 10
    with torch.no_grad():
        expected = encoder(waveforms)
        torch.testing.assert_close(traceable(encoder)(waveforms), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(encoder(waveforms), expected) and isinstance(encoder.features, Spectrogram)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS if name != "default"]


@pytest.mark.parametrize("name", ["default", *SLOW])
def test_pack_onnx__any_length_and_batch_equals_torch(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")
    encoder = trained_encoder(SETTINGS[name])
    session = onnxruntime.InferenceSession(pack_onnx(encoder, {}))
    generator = np.random.default_rng(7)
    for shape in [(1, 400), (3, 16000), (2, 31999)]:
        waveforms = generator.normal(0, 0.1, shape).astype(np.float32)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(waveforms)).numpy()
        (found,) = session.run(["embeddings"], {"waveforms": waveforms})
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("waveforms", ["batch", "samples"])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("embeddings", ["batch", 8])]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["min_samples"] == "400" and metadata["format"] == "sslsv encoder 1"


# Encoders that need more settings, such as weights, are tested in their own files.
OTHERS = [name for name in registry.names("encoders") if name not in ("thin_resnet34", "speech_transformer")]


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_pack_onnx__every_encoder_equals_torch_at_any_length(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")
    kind = registry.find("encoders", name)
    encoder = kind(kind.Config()).eval()
    session = onnxruntime.InferenceSession(pack_onnx(encoder, {}))
    generator = np.random.default_rng(7)
    shortest = np.zeros((1, encoder.min_samples), dtype=np.float32)
    assert session.run(["embeddings"], {"waveforms": shortest})[0].shape == (1, encoder.embedding_dim)
    for shape in [(1, 16000), (2, 31999)]:
        waveforms = generator.normal(0, 0.1, shape).astype(np.float32)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(waveforms)).numpy()
        (found,) = session.run(["embeddings"], {"waveforms": waveforms})
        print(
            f"{name} {shape}: largest difference {np.abs(found - expected).max() / np.abs(expected).max():.1e}"
        )
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_traceable__a_recurrent_part_has_no_form_in_onnx():
    encoder = trained_encoder(TINY)
    encoder.context = torch.nn.GRU(8, 8)
    with pytest.raises(ValueError, match="has recurrent layers"):
        traceable(encoder)
