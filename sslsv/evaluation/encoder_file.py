"""One file with a trained encoder: its weights, its settings and where they come from.

Reading it takes torch, safetensors and `sslsv.encoders`, nothing of what trains:

encoder = load_encoder("simclr.safetensors")
embeddings = encoder(waveforms)  # (B, T) at 16 kHz, full scale 1 -> (B, D)
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sslsv import registry
from sslsv.encoders.features import SAMPLE_RATE

FORMAT = "sslsv encoder 1"  # the digit changes when older code can't read the file


class EncoderFileError(ValueError):
    """A file that is no exported encoder, or no sound one; the message says which and what to do."""


def describe_encoder(encoder: nn.Module) -> dict[str, str]:
    """What a program must know to use the encoder, as text: settings (JSON), sample rate in Hz, size."""
    settings: Any = encoder.config
    return {
        "format": FORMAT,
        "encoder": json.dumps(dataclasses.asdict(settings)),
        "sample_rate": str(SAMPLE_RATE),
        "embedding_dim": str(encoder.embedding_dim),
    }


def save_encoder(path: str | os.PathLike[str], encoder: nn.Module, facts: dict[str, str]) -> None:
    """Write weights and settings of an encoder, and `facts` about it, as one safetensors file.

    A checksum goes into the file: `load_encoder` notices a single changed bit, of weights or text.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    metadata = facts | describe_encoder(encoder)
    write_whole(path, save(weights, metadata | {"sha256": _digest(weights, metadata)}))


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """The encoder in a file, on the CPU, in eval mode.

    Raises FileNotFoundError, or EncoderFileError when the content is foreign, damaged or of another version.
    """
    weights, facts = _read(path)
    try:
        settings = json.loads(facts["encoder"])
        kind = registry.find("encoders", settings["name"])
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
            encoder = kind(kind.Config(**settings))
        encoder.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise EncoderFileError(
            f"{os.fspath(path)} holds an encoder that this version of sslsv can't build ({cause}); it was "
            f"written by version {facts.get('sslsv_version', 'unknown')}: use that, or export it again"
        ) from error
    return encoder.to(memory_format=torch.channels_last).eval()  # as SpeakerEncoder: equal bit for bit


def read_facts(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says about its encoder: `describe_encoder`, checkpoint, step, model ...

    Raises as `load_encoder`.
    """
    return _read(path)[1]


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name, then rename it: no reader meets half of it."""
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    place = os.fspath(path)
    if not os.path.isfile(place):
        raise FileNotFoundError(f"there is no file {place}; `python -m sslsv.export RUN` writes one")
    try:
        with safe_open(place, framework="pt") as file:
            facts = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise EncoderFileError(
            f"{place} is damaged, or no safetensors file ({error}); export it again"
        ) from error
    if facts.get("format") != FORMAT:
        raise EncoderFileError(
            f"{place} says that its format is {facts.get('format')!r}, not {FORMAT!r}; give a file that "
            "`python -m sslsv.export` of this version wrote"
        )
    if facts.pop("sha256", None) != _digest(weights, facts):
        raise EncoderFileError(
            f"{place} is damaged: its content does not have the checksum in it; copy it here again"
        )
    return weights, facts


def _digest(weights: dict[str, Tensor], facts: dict[str, str]) -> str:
    """SHA-256 of all names, shapes, types and values, whatever order a file has them in."""
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in weights.items()}
    digest = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
