"""Build the model of some settings, for training and evaluation alike."""

import torch

from sslsv import registry
from sslsv.config import Config
from sslsv.models.base import CorpusSize, Model


def build_model(config: Config, size: CorpusSize) -> Model:
    """Return the model that the settings describe, with freshly drawn weights, on the CPU.

    `size` is that of the training corpus: classifiers and memories have a row for each speaker or utterance.
    """
    torch.manual_seed(config.seed)
    encoder = registry.find("encoders", config.encoder.name)(config.encoder)
    encoder.recomputes_activations = config.train.recompute
    if config.encoder.frozen:
        encoder.freeze()
    model: Model = registry.find("models", config.model.name)(config.model, encoder, size)
    return model
