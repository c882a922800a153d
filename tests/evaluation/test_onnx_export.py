import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sslsv.encoders.features import LogMel
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.onnx_export import (
    ConvolutionalLogMel,
    TraceableEncoder,
    open_onnx,
    require_packages,
    save_onnx,
)
from sslsv.evaluation.parity import embed_with, measure_parity, synthetic_batches

onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")

TINY = ThinResNet34.Config(width=2, embedding_dim=8)
SETTINGS = {
    "mean": replace(TINY, pooling="mean"),
    "stats": replace(TINY, pooling="stats"),
    "sap": replace(TINY, pooling="sap"),
    "asp": replace(TINY, pooling="asp"),
    "attentive_mean": replace(TINY, pooling="attentive_mean"),
    "3x3": replace(TINY, stem="3x3", pre_emphasis=0.97, num_mels=30),
    "strides": replace(TINY, stem_time_stride=2, last_stride=2),
    "no_gates": replace(TINY, has_squeeze_excitation=False, embedding_batchnorm=True),
}


def trained_encoder(config: ThinResNet34.Config) -> ThinResNet34:
    """An encoder whose running statistics are not those of a new one."""
    torch.manual_seed(5)
    encoder = ThinResNet34(config).train()
    with torch.no_grad():
        for _ in range(20):
            encoder(torch.randn(8, 8000) / 10)
    return encoder.eval()


def export_and_compare(config: ThinResNet34.Config, path: Path) -> None:
    encoder = trained_encoder(config)
    save_onnx(path, encoder, {})
    original, exported = embed_with(encoder), open_onnx(path)
    generator = np.random.default_rng(7)
    lengths = [(1, 257), (1, 400), (1, 4800), (3, 16000), (2, 31999), (1, 80000)]
    noises = [(str(shape), generator.normal(0, 0.1, shape).astype(np.float32)) for shape in lengths]
    for name, waveforms in [*noises, *synthetic_batches()]:
        parity = measure_parity(original, exported, name, waveforms)
        assert parity.min_cosine > 0.999999, parity
        assert parity.max_difference < 1e-4 * np.abs(original(waveforms)).max(), parity


@pytest.mark.parametrize("features", [LogMel(), LogMel(80, pre_emphasis=0.97)], ids=["plain", "emphasis"])
@pytest.mark.parametrize("samples", [257, 400, 4799, 16000])
def test_convolutional_log_mel__equals_log_mel(features: LogMel, samples: int) -> None:
    time = torch.arange(samples) / 16000
    waveforms = torch.stack([torch.randn(samples) / 10, torch.sin(2000 * time) / 2, torch.zeros(samples)])
    expected = features(waveforms)
    torch.testing.assert_close(ConvolutionalLogMel(features)(waveforms), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_traceable_encoder__equals_the_encoder_for_all_settings(config: ThinResNet34.Config) -> None:
    encoder = trained_encoder(config)
    waveforms = torch.randn(2, 12000) / 10
    with torch.no_grad():
        expected = encoder(waveforms)
        torch.testing.assert_close(TraceableEncoder(encoder)(waveforms), expected, rtol=1e-4, atol=1e-5)


def test_save_onnx__any_length_and_batch_equals_torch(tmp_path: Path) -> None:
    export_and_compare(TINY, tmp_path / "e.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["e.onnx"]  # weights inside
    session = onnxruntime.InferenceSession(str(tmp_path / "e.onnx"))
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("waveforms", ["batch", "samples"], "tensor(float)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("embeddings", ["batch", 8])]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata.pop("encoder").startswith('{"name": "thin_resnet34"')
    assert metadata == {
        "format": "sslsv encoder 1",
        "sample_rate": "16000",
        "embedding_dim": "8",
        "min_samples": "257",
        "opset": "18",
    }
    with pytest.raises(Exception, match="exceeds maximum"):
        open_onnx(tmp_path / "e.onnx")(np.zeros((1, 256), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_save_onnx__all_settings_equal_torch(tmp_path: Path, config: ThinResNet34.Config) -> None:
    export_and_compare(config, tmp_path / "e.onnx")


@pytest.mark.slow
def test_save_onnx__full_size_equals_torch(tmp_path: Path) -> None:
    export_and_compare(ThinResNet34.Config.seed(), tmp_path / "e.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_require_packages__says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    require_packages()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ValueError, match=f"needs the package {missing}, .*pip install onnx onnxscript onnxruntime"
    ):
        require_packages()


def test_save_onnx__another_encoder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear can't be exported to ONNX, only ThinResNet34 can"):
        save_onnx(tmp_path / "x.onnx", torch.nn.Linear(2, 2), {})
    assert not list(tmp_path.iterdir())


def test_save_onnx__what_torch_cannot_export_is_told_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    def forward(self: TraceableEncoder, waveforms: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(waveforms[:, :2, None] * waveforms[:, None, :2]).real  # ONNX has none

    monkeypatch.setattr(TraceableEncoder, "forward", forward)
    with pytest.raises(ValueError, match="can't export this encoder to ONNX: .*; export to safetensors"):
        save_onnx(tmp_path / "x.onnx", ThinResNet34(TINY).eval(), {})
    assert not list(tmp_path.iterdir())
