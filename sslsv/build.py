"""Build the model of some settings, for training and evaluation alike."""

from typing import Any

import torch

from sslsv import registry
from sslsv.config import Config
from sslsv.models.base import CorpusSize, Model


def build_encoder(config: Config) -> Any:
    """Return the encoder that the settings describe, with weights drawn by the seed, on the CPU."""
    torch.manual_seed(config.seed)
    return registry.find("encoders", config.encoder.name)(config.encoder)


def build_model(config: Config, size: CorpusSize) -> Model:
    """Return the model that the settings describe, with freshly drawn weights, on the CPU.

    `size` is that of the training corpus: classifiers and memories have a row for each speaker or utterance.
    """
    encoder = build_encoder(config)
    encoder.recomputes_activations = config.train.recompute
    if config.encoder.frozen:
        encoder.freeze()
    model: Model = registry.find("models", config.model.name)(config.model, encoder, size)
    return model
