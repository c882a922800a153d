"""Start a run from the encoder of another: fine-tuning, and training in stages."""

import dataclasses
from typing import Any

import torch

from sslsv.config import Config
from sslsv.encoders.fields import EncoderConfig
from sslsv.evaluation.export import load_encoder
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.models.base import Model


def load_source(config: Config) -> tuple[Any, Model | None]:
    """Return the encoder that `encoder.init` names and, if it is a run's, the model around it; on the CPU.

    The encoder is the one that gives the run's embeddings, such as a teacher's, by the checkpoint that
    validation chose. Raises ValueError or FileNotFoundError, with a sentence, where there is none or it is
    another kind of encoder.
    """
    place = str(config.encoder.init)
    if place.endswith(".safetensors"):
        model, network = None, load_encoder(place)
    else:
        model = SpeakerEncoder.load(place, device="cpu").model
        network = model.get_submodule(model.embedder)
    encoder: Any = getattr(network, "encoder", network)  # a method may put a network of its own around it
    free = {field.name for field in dataclasses.fields(EncoderConfig)}
    theirs, ours = dataclasses.asdict(encoder.config), dataclasses.asdict(config.encoder)
    for key in dict.fromkeys([*ours, *theirs]):
        if key not in free and theirs.get(key) != ours.get(key):
            raise ValueError(
                f"encoder.init is {place}, an encoder with {key} {theirs.get(key)!r}, but this run's has "
                f"{ours.get(key)!r}; give both the same settings, or another encoder.init"
            )
    return encoder, model


def start_from_source(model: Model, config: Config) -> None:
    """Load what `encoder.init` names into the model of a new run; nothing if it is null."""
    if config.encoder.init is not None:
        with torch.no_grad():
            model.start_from(*load_source(config))
