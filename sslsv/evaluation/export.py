"""Pack a trained encoder into one file: safetensors, or an ONNX graph with the front end included.

A safetensors file can be read without the training code: `load_encoder("simclr.safetensors")(waveforms)` maps
waveforms (B, T), 16 kHz, full scale 1, to embeddings (B, D).
"""

import copy
import dataclasses
import json
import logging
import os
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sslsv import registry
from sslsv.encoders.features import HOP_LENGTH, SAMPLE_RATE, Spectrogram
from sslsv.settings import build, command_name, refuse_if

FORMAT = "sslsv encoder 1"  # the digit changes when older code can't read the file
OPSET = 18


def pack_encoder(encoder: nn.Module, facts: dict[str, str]) -> bytes:
    """Return the content of a safetensors file: weights and settings of an encoder, and `facts` about it.

    A method that wraps the encoder in a network of its own (CPC) is rebuilt from the fact `method` (JSON).
    """
    encoder = copy.deepcopy(encoder)
    _innermost(encoder).merge()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    return save(weights, facts | _described(encoder))


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """Load the encoder in a safetensors file, on the CPU and in eval mode.

    Raises FileNotFoundError, or ValueError if the file is damaged, of another kind or of another version.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}; `{command_name('export')} RUN` writes one")
    facts: dict[str, str] = {}
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise ValueError(f"its format is {facts.get('format')!r}, not {FORMAT!r}")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):  # The random initial weights are overwritten.
            settings = json.loads(facts["encoder"])
            kind = registry.find("encoders", settings["name"])
            encoder: nn.Module = kind(build(kind.Config, settings))
            if "method" in facts:
                settings = json.loads(facts["method"])
                method = registry.find("models", settings["name"])
                encoder = method.build_embedder(build(method.Config, settings), encoder)
        encoder.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, or no encoder that this version of sslsv can build "
            f"({' '.join(str(error).split())[:200]}); it was written by version "
            f"{facts.get('sslsv_version', 'unknown')}: use that, or export it again"
        ) from error
    # SpeakerEncoder uses this memory format too, so embeddings are equal bit for bit.
    return encoder.to(memory_format=torch.channels_last).eval()


class ConvolutionalSpectrogram(nn.Module):
    """Compute the features of a `Spectrogram` with operations that are fast in every ONNX runtime.

    All operations on a frame, up to its Fourier transform, are linear and become one convolution with 514
    kernels. It takes less than a tenth of the network's multiplications; onnxruntime's own STFT is slower.
    """

    basis: Tensor
    filterbank: Tensor

    def __init__(self, features: Spectrogram) -> None:
        super().__init__()
        self.features = features
        exact = copy.deepcopy(features).double()
        window = exact.window
        frames = torch.eye(len(window), dtype=torch.float64)
        if features.is_kaldi:
            frames = exact.emphasized(frames - frames.mean(1, keepdim=True))
        spectra = torch.fft.rfft(frames * window, features.num_fft)  # (frame length, bins)
        # Real and imaginary parts alternate; each row of the filterbank is repeated for both.
        kernels = torch.view_as_real(spectra).flatten(1).T
        self.register_buffer("basis", kernels.to(features.window.dtype)[:, None])
        self.register_buffer("filterbank", features.filterbank)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return log-mel energies (B, num_mels, L) of waveforms (B, T)."""
        waveforms = waveforms * self.features.settings.full_scale
        if not self.features.is_kaldi:
            waveforms = self.features.padded(self.features.emphasized(waveforms))
        squares = F.conv1d(waveforms[:, None], self.basis, stride=HOP_LENGTH).square()  # (B, 514, L)
        return self.features.normalized_log(squares.mT @ self.filterbank).mT


def traceable(encoder: nn.Module) -> nn.Module:
    """Return a copy of an encoder that can be exported to ONNX; raises ValueError for recurrent layers."""
    refuse_if(
        any(isinstance(part, nn.RNNBase) for part in encoder.modules()),
        f"{type(encoder).__name__} has recurrent layers, which PyTorch's exporter can't convert to ONNX for "
        "waveforms of any length; use safetensors",
    )
    copied = copy.deepcopy(encoder).cpu().to(memory_format=torch.contiguous_format).eval()
    inner = _innermost(copied)
    inner.merge()
    if isinstance(inner.features, Spectrogram):
        inner.features = ConvolutionalSpectrogram(inner.features)
    return copied


def pack_onnx(encoder: nn.Module, facts: dict[str, str]) -> bytes:
    """Return the content of an ONNX file of opset 18 with the encoder and its weights.

    The input is `waveforms`, float32 (batch, samples), 16 kHz, full scale 1, at least `encoder.min_samples`.
    The output is `embeddings`, float32 (batch, D), not normalised. `facts` and settings become metadata.
    """
    # The exporter warns about every optional library that is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported = traceable(encoder)
    min_samples = _innermost(encoder).min_samples
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=min_samples)
    # ONNX cannot express the memory layout of the output of fused attention.
    with sdpa_kernel(SDPBackend.MATH):
        program: Any = torch.onnx.export(
            exported,
            (torch.zeros(2, 8000),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["waveforms"],
            output_names=["embeddings"],
            dynamic_shapes=({0: batch, 1: samples},),
            verbose=False,
        )
    metadata = facts | _described(exported) | {"min_samples": str(min_samples), "opset": str(OPSET)}
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


def _innermost(network: nn.Module) -> Any:
    # A method may wrap the encoder in a network of its own.
    return getattr(network, "encoder", network)


def _described(encoder: nn.Module) -> dict[str, str]:
    # The initial weights (`init`, `weights`) are left out: they are paths on the training machine.
    settings = dataclasses.asdict(_innermost(encoder).config)
    return {
        "format": FORMAT,
        "encoder": json.dumps(settings | {key: None for key in ("init", "weights") if key in settings}),
        "sample_rate": str(SAMPLE_RATE),
        "embedding_dim": str(encoder.embedding_dim),
    }
