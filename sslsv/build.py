"""Build the encoder or the model that the settings describe, for training and evaluation."""

from typing import Any

import torch

from sslsv import registry
from sslsv.config import Config
from sslsv.models.base import CorpusSize, Model


def build_encoder(config: Config) -> Any:
    """Return the encoder that the settings describe, with weights drawn from the seed, on the CPU."""
    torch.manual_seed(config.seed)
    return registry.find("encoders", config.encoder.name)(config.encoder)


def build_model(config: Config, size: CorpusSize) -> Model:
    """Return the model that the settings describe, with freshly drawn weights, on the CPU.

    `size` is the size of the training corpus. Classifiers have a row per speaker, memory banks per utterance.
    """
    encoder = build_encoder(config)
    encoder.recomputes_activations = config.train.recompute
    if config.encoder.frozen:
        encoder.freeze()
    model: Model = registry.find("models", config.model.name)(config.model, encoder, size)
    return model
