"""From settings to networks: what training, evaluation and exports build alike."""

import torch
from torch import nn

from sslsv import registry
from sslsv.config import Config
from sslsv.models.base import CorpusSize, Model


def build_model(config: Config, size: CorpusSize) -> Model:
    """Return the model that the settings describe, with freshly drawn weights, on the CPU.

    `size` is that of the training corpus: classifiers and memories have a row for each speaker or utterance.
    """
    torch.manual_seed(config.seed)
    encoder = build_encoder(config)
    encoder.recomputes_activations = config.train.recompute  # type: ignore[assignment]
    model: Model = registry.find("models", config.model.name)(config.model, encoder, size)
    return model


def build_encoder(config: Config) -> nn.Module:
    """Return the encoder alone, with freshly drawn weights."""
    encoder: nn.Module = registry.find("encoders", config.encoder.name)(config.encoder)
    return encoder
