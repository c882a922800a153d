"""Pack a trained encoder into one file: safetensors, or an ONNX graph with the front end included.

Reading a safetensors file takes torch, safetensors and `sslsv.encoders`, nothing of what trains:

encoder = load_encoder("simclr.safetensors")
embeddings = encoder(waveforms)  # (B, T) at 16 kHz, full scale 1 -> (B, D)
"""

import copy
import dataclasses
import json
import logging
import math
import os
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sslsv import registry
from sslsv.encoders.features import HOP_LENGTH, SAMPLE_RATE, LogMel
from sslsv.settings import build

FORMAT = "sslsv encoder 1"  # the digit changes when older code can't read the file
OPSET = 18


def pack_encoder(encoder: nn.Module, facts: dict[str, str]) -> bytes:
    """Return a safetensors file with weights and settings of an encoder, and `facts` about it.

    A method that puts a network of its own around the encoder (CPC) needs its settings (JSON) among the
    facts, as `method`.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    return save(weights, facts | _described(encoder))


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """Return the encoder in a file, on the CPU, in eval mode.

    Raises FileNotFoundError, or ValueError when the content is foreign, damaged or of another version.
    """
    place = os.fspath(path)
    if not os.path.isfile(place):
        raise FileNotFoundError(f"there is no file {place}; `python -m sslsv.export RUN` writes one")
    facts: dict[str, str] = {}
    try:
        with safe_open(place, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise ValueError(f"its format is {facts.get('format')!r}, not {FORMAT!r}")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
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
            f"{place} is damaged, or no encoder that this version of sslsv can build "
            f"({' '.join(str(error).split())[:200]}); it was written by version "
            f"{facts.get('sslsv_version', 'unknown')}: use that, or export it again"
        ) from error
    # SpeakerEncoder keeps this memory format too: then embeddings are equal bit for bit.
    return encoder.to(memory_format=torch.channels_last).eval()


class ConvolutionalLogMel(nn.Module):
    """Compute the features of a `LogMel` by operations that every ONNX runtime has and is fast at.

    Windowing and Fourier transform are one convolution with 2 x 257 windowed cosines and sines: less than a
    tenth of the network's multiplications, and faster in onnxruntime than its STFT operator.
    """

    basis: Tensor
    filterbank: Tensor

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.pre_emphasis = features.pre_emphasis
        window = features.window.double()
        length = len(window)
        self.margin = length // 2
        frequencies = torch.arange(length // 2 + 1, dtype=torch.float64) / length
        angles = 2 * math.pi * frequencies[:, None] * torch.arange(length, dtype=torch.float64)
        # Cosine, sine, cosine, sine ...: the order of LogMel's filterbank, whose rows are doubled for it.
        waves = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1)
        self.register_buffer("basis", (waves * window).to(features.window.dtype)[:, None])
        self.register_buffer("filterbank", features.filterbank)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return log-mel energies (B, num_mels, 1 + T // 160) of waveforms (B, T)."""
        if self.pre_emphasis:
            previous = torch.cat([waveforms[:, 1:2], waveforms[:, :-1]], 1)
            waveforms = waveforms - self.pre_emphasis * previous
        padded = F.pad(waveforms[:, None], (self.margin, self.margin), mode="reflect")
        squares = F.conv1d(padded, self.basis, stride=HOP_LENGTH).square()  # (B, 514, L)
        log_mel = (squares.mT @ self.filterbank + 1e-6).log()
        variance, mean = torch.var_mean(log_mel, 1, correction=0, keepdim=True)
        return ((log_mel - mean) * (variance + 1e-5).rsqrt()).mT


def traceable(encoder: nn.Module) -> nn.Module:
    """Return a copy of an encoder whose `features` ONNX can hold; ValueError where they are no `LogMel`."""
    features = _innermost(encoder).features
    if not isinstance(features, LogMel):
        names = type(encoder).__name__, type(features).__name__
        raise ValueError(
            f"the features of {names[0]} are {names[1]}, which has no form for ONNX; use safetensors"
        )
    copied = copy.deepcopy(encoder).cpu().to(memory_format=torch.contiguous_format).eval()
    inner = _innermost(copied)
    inner.features = ConvolutionalLogMel(inner.features)  # type: ignore[arg-type]
    return copied


def pack_onnx(encoder: nn.Module, facts: dict[str, str]) -> bytes:
    """Return an ONNX file of opset 18 with the encoder and its weights.

    Input `waveforms`, float32 (batch, samples) of full scale 1 at 16 kHz, at least 257 samples; output
    `embeddings`, float32 (batch, D), not normalised. `facts` and the settings become metadata.
    """
    # The exporter warns of every optional library that is not there.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported = traceable(encoder)
    # Edges are reflected, which takes one sample more than the margin.
    min_samples = int(_innermost(exported).features.margin) + 1  # type: ignore[arg-type, union-attr]
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=min_samples)
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
    metadata = facts | _described(encoder) | {"min_samples": str(min_samples), "opset": str(OPSET)}
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


def _innermost(network: nn.Module) -> nn.Module:
    # A method may put a network of its own around the encoder.
    return getattr(network, "encoder", network)


def _described(encoder: nn.Module) -> dict[str, str]:
    settings: Any = _innermost(encoder).config
    return {
        "format": FORMAT,
        "encoder": json.dumps(dataclasses.asdict(settings)),
        "sample_rate": str(SAMPLE_RATE),
        "embedding_dim": str(encoder.embedding_dim),
    }
