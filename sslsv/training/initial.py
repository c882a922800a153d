"""Start a run from the encoder of another run or from pretrained weights, to fine-tune or train in stages."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sslsv import registry
from sslsv.build import build_encoder
from sslsv.config import Config
from sslsv.evaluation.export import load_encoder
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.models.base import Model


def load_source(config: Config) -> tuple[Any, Model | None] | None:
    """Return the encoder that a new run starts from and, if a run is the source, its model; on the CPU.

    Returns None if neither `encoder.init` nor `encoder.weights` (which only some encoders have) is set.
    Raises ValueError or FileNotFoundError if the source does not exist or has another kind of encoder.
    """
    if config.encoder.source() is None:
        return None
    return _trained_encoder(config) if config.encoder.init else (_pretrained_encoder(config), None)


def _trained_encoder(config: Config) -> tuple[Any, Model | None]:
    # Take the encoder that produces the run's embeddings, possibly the teacher's, from the best checkpoint
    # (the last one if nothing was validated).
    location = str(config.encoder.init)
    if location.endswith(".safetensors"):
        model, network = None, load_encoder(location)
    else:
        source = SpeakerEncoder.load(location, device="cpu")
        for note in source.notes:
            print(f"encoder.init: {note}", file=sys.stderr)
        model = source.model
        network = model.get_submodule(model.embedder)
    encoder: Any = getattr(network, "encoder", network)  # some methods wrap the encoder
    encoder.merge()
    check_same_encoder(f"encoder.init is {location}", encoder.config, config.encoder)
    return encoder, model


def check_same_encoder(source: str, theirs: Any, ours: Any) -> None:
    """Raise ValueError, beginning with `source`, if the encoders differ in more than training settings."""
    old, new = dataclasses.asdict(theirs), dataclasses.asdict(ours)
    free = registry.find("encoders", theirs.name).training_settings
    for key in dict.fromkeys([*new, *old]):
        if key not in free and old.get(key) != new.get(key):
            raise ValueError(
                f"{source}, an encoder with {key} {old.get(key)!r}, but this run's has {new.get(key)!r}; "
                "give both the same settings, or start from another"
            )


def _pretrained_encoder(config: Config) -> Any:
    settings = config.encoder
    if not os.path.isfile(settings.weights):
        raise FileNotFoundError(
            f"encoder.weights is {settings.weights}, but there is no such file; nothing is downloaded, so "
            "fetch it first"
        )
    with torch.random.fork_rng(devices=[]):  # draws the same pooling weights as the model
        encoder = build_encoder(config)
    try:
        encoder.load_weights(read_weights(settings.weights))
    except ValueError as error:
        raise ValueError(
            f"encoder.weights is {settings.weights}, which does not fit the trunk {settings.trunk}: "
            f"it {error}; give torchaudio's state dict, or pytorch_model.bin or model.safetensors of "
            "transformers, and the encoder.trunk they belong to"
        ) from error
    return encoder


def read_weights(path: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of dictionaries that `torch.save` wrote, on the CPU.

    Keys of nested dictionaries are joined: `model.encoder.conv.weight`. Nothing in a file is executed. Raises
    ValueError for other files; the caller puts the name of the file in front of its message.
    """
    try:
        is_plain = path.endswith(".safetensors")
        content = load_file(path) if is_plain else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise almost any error
        raise ValueError(f"can't be read as weights ({' '.join(str(error).split())[:150]})") from error
    return dict(_flattened(content, ""))


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
