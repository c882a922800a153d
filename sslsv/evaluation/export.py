"""Exports of a trained encoder: one safetensors file, or an ONNX graph with the front end included.

Reading a safetensors file takes torch, safetensors and `sslsv.encoders`, nothing of what trains:

encoder = load_encoder("simclr.safetensors")
embeddings = encoder(waveforms)  # (B, T) at 16 kHz, full scale 1 -> (B, D)
"""

import copy
import dataclasses
import importlib
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Floats = npt.NDArray[np.float32]


def save_encoder(path: str | os.PathLike[str], encoder: nn.Module, facts: dict[str, str]) -> None:
    """Write weights and settings of an encoder, and `facts` about it, as one safetensors file.

    A method that puts a network of its own around the encoder (CPC) needs its settings (JSON) among the
    facts, as `method`.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    _write_whole(path, save(weights, facts | _described(encoder)))


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """Return the encoder in a file, on the CPU, in eval mode.

    Raises FileNotFoundError, or ValueError when the content is foreign, damaged or of another version.
    """
    facts = read_facts(path)
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
            settings = json.loads(facts["encoder"])
            kind = registry.find("encoders", settings["name"])
            encoder: nn.Module = kind(build(kind.Config, settings))
            if "method" in facts:
                settings = json.loads(facts["method"])
                method = registry.find("models", settings["name"])
                encoder = method.build_embedder(build(method.Config, settings), encoder)
        with safe_open(os.fspath(path), framework="pt") as file:
            encoder.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{os.fspath(path)} holds an encoder that this version of sslsv can't build ({cause}); it was "
            f"written by version {facts.get('sslsv_version', 'unknown')}: use that, or export it again"
        ) from error
    # SpeakerEncoder keeps this memory format too: then embeddings are equal bit for bit.
    return encoder.to(memory_format=torch.channels_last).eval()


def read_facts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the facts in a file: encoder settings (JSON), checkpoint, step ...; raises as `load_encoder`."""
    place = os.fspath(path)
    if not os.path.isfile(place):
        raise FileNotFoundError(f"there is no file {place}; `python -m sslsv.export RUN` writes one")
    try:
        with safe_open(place, framework="pt") as file:
            facts = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{place} is damaged, or no safetensors file ({error}); export it again") from error
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{place} says that its format is {facts.get('format')!r}, not {FORMAT!r}; give a file that "
            "`python -m sslsv.export` of this version wrote"
        )
    return facts


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


def require_onnx() -> None:
    """Raise ValueError, saying what to install, when a package for ONNX is missing."""
    for name in ONNX_PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"ONNX needs the package {name}, which can't be imported ({error}); pip install "
                f"{' '.join(ONNX_PACKAGES)}, or export to safetensors"
            ) from error


def save_onnx(path: str | os.PathLike[str], encoder: nn.Module, facts: dict[str, str]) -> None:
    """Write the encoder, with its weights as they are, as one ONNX file of opset 18.

    Input `waveforms`, float32 (batch, samples) of full scale 1 at 16 kHz, at least 257 samples; output
    `embeddings`, float32 (batch, D), not normalised. `facts` and the settings become metadata. Raises
    ValueError when a package is missing, and for an encoder that can't be exported.
    """
    require_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every library that is not there
    exported = traceable(encoder)
    min_samples = int(_innermost(exported).features.margin) + 1  # type: ignore[arg-type, union-attr]  # edges are reflected
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=min_samples)
    try:
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
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"torch {torch.__version__} can't export this encoder to ONNX: "
            f"{' '.join(str(error).split())[:300]}; export to safetensors, or try another onnxscript"
        ) from error
    metadata = facts | _described(encoder) | {"min_samples": str(min_samples), "opset": str(OPSET)}
    program.model.metadata_props.update(metadata)
    _write_whole(path, program.model_proto.SerializeToString())


def open_onnx(path: str | os.PathLike[str]) -> Callable[[Floats], Floats]:
    """Return the function (B, T) -> (B, D) in an ONNX file, run on as many threads as torch uses."""
    require_onnx()
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(["embeddings"], {"waveforms": waveforms})[0]


def lowest_cosine(encoder: nn.Module, path: str | os.PathLike[str], *, is_onnx: bool) -> float:
    """Return the lowest cosine of embeddings by an encoder and by its file, of noises of 0.5 to 10 s."""
    exported = open_onnx(path) if is_onnx else lambda x: load_encoder(path)(torch.from_numpy(x)).numpy()
    rng, cosines = np.random.default_rng(0), list[float]()
    for rows, seconds in ((1, 0.5), (4, 2.0), (1, 3.7), (1, 10.0)):
        waveforms = rng.normal(0, 0.1, (rows, round(seconds * SAMPLE_RATE))).astype(np.float32)
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(waveforms)).double().numpy()
            found = exported(waveforms).astype(np.float64)
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
        with np.errstate(invalid="ignore"):
            cosines += ((expected * found).sum(1) / lengths).tolist()
    return float(np.min(cosines))


def _innermost(network: nn.Module) -> nn.Module:
    # The encoder in a network that a method puts around it, or the encoder itself.
    return getattr(network, "encoder", network)


def _described(encoder: nn.Module) -> dict[str, str]:
    # A program that uses the encoder needs its settings (JSON), the sample rate in Hz and the size.
    settings: Any = _innermost(encoder).config
    return {
        "format": FORMAT,
        "encoder": json.dumps(dataclasses.asdict(settings)),
        "sample_rate": str(SAMPLE_RATE),
        "embedding_dim": str(encoder.embedding_dim),
    }


def _write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    # Under a temporary name first, so that no reader meets half of the file.
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
