"""An encoder as an ONNX graph, front end included: waveforms (B, T) in, embeddings (B, D) out, any B and T.

Needs onnx, onnxscript and onnxruntime, which training does not.
"""

import importlib
import logging
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslsv.encoders.features import HOP_LENGTH, LogMel
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.encoder_file import describe_encoder, write_whole

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Floats = npt.NDArray[np.float32]


class ConvolutionalLogMel(nn.Module):
    """The same features as a `LogMel`, from operations that every ONNX runtime has and is fast at.

    Windowing and Fourier transform are one convolution with 2 x 257 windowed cosines and sines: ten times the
    multiplications of an FFT, still less than a tenth of the network's, and faster in onnxruntime than its
    STFT operator.  Waveforms are floats of full scale 1, longer than 256 samples.
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
        """(B, T) -> (B, num_mels, 1 + T // 160)."""
        if self.pre_emphasis:
            previous = torch.cat([waveforms[:, 1:2], waveforms[:, :-1]], 1)
            waveforms = waveforms - self.pre_emphasis * previous
        padded = F.pad(waveforms[:, None], (self.margin, self.margin), mode="reflect")
        squares = F.conv1d(padded, self.basis, stride=HOP_LENGTH).square()  # (B, 514, L)
        log_mel = (squares.mT @ self.filterbank + 1e-6).log()
        variance, mean = torch.var_mean(log_mel, 1, correction=0, keepdim=True)
        return ((log_mel - mean) * (variance + 1e-5).rsqrt()).mT


class TraceableEncoder(nn.Module):
    """A `ThinResNet34` without what depends on device, memory layout or autocast; shares its weights."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = ConvolutionalLogMel(encoder.features)

    def forward(self, waveforms: Tensor) -> Tensor:
        """(B, T), float32 -> (B, embedding_dim)."""
        encoder = self.encoder
        frames = encoder.blocks(encoder.stem(self.features(waveforms)[:, None]))
        embeddings: Tensor = encoder.head_norm(encoder.head(encoder.pooling.pool(frames)))
        return embeddings


def require_packages() -> None:
    """Raise ValueError, saying what to install, when a package for ONNX is missing."""
    for name in PACKAGES:
        _load(name)


def save_onnx(path: str | os.PathLike[str], encoder: nn.Module, facts: dict[str, str]) -> None:
    """Write the encoder, with its weights as they are, as one ONNX file of opset 18.

    Input `waveforms`, float32 (batch, samples) of full scale 1 at 16 kHz, at least 257 samples; output
    `embeddings`, float32 (batch, D), not normalised.  `facts` and the settings become metadata.  Raises
    ValueError when a package is missing, and for an encoder that can't be exported.
    """
    require_packages()
    if not isinstance(encoder, ThinResNet34):
        raise ValueError(
            f"{type(encoder).__name__} can't be exported to ONNX, only ThinResNet34 can: its front end is "
            "written anew for it; export to safetensors"
        )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every library that is not there
    traceable = TraceableEncoder(encoder).eval()
    min_samples = traceable.features.margin + 1  # fewer can't be reflected at the edges
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=min_samples)
    try:
        program: Any = torch.onnx.export(
            traceable,
            (torch.zeros(2, 8000),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["waveforms"],
            output_names=["embeddings"],
            dynamic_shapes=({0: batch, 1: samples},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"torch {torch.__version__} can't export this encoder to ONNX: "
            f"{' '.join(str(error).split())[:300]}; export to safetensors, or try another onnxscript"
        ) from error
    metadata = facts | describe_encoder(encoder) | {"min_samples": str(min_samples), "opset": str(OPSET)}
    program.model.metadata_props.update(metadata)
    write_whole(path, program.model_proto.SerializeToString())


def open_onnx(path: str | os.PathLike[str]) -> Callable[[Floats], Floats]:
    """The function (B, T) -> (B, D) in an ONNX file, run by onnxruntime on as many threads as torch uses."""
    runtime = _load("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(["embeddings"], {"waveforms": waveforms})[0]


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"ONNX needs the package {name}, which can't be imported ({error}); pip install "
            f"{' '.join(PACKAGES)}, or export to safetensors"
        ) from error
