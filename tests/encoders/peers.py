"""Import modules of other projects for comparison; they are installed without their dependencies."""

import importlib.util
import sys
import types
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from sslsv.encoders.base import Encoder
from sslsv.settings import build


def peer_module(name: str) -> Any:
    """Import `wespeaker.models.resnet` and the like; skip the test if the project is missing."""
    _enter(name.rpartition(".")[0])
    return importlib.import_module(name)


def lightly_loss(module: str, name: str) -> Any:
    """Return class `name` of lightly.loss.`module`; skip the test if lightly is missing."""
    for package in ("lightly.models.modules", "lightly.models.utils"):  # the real modules import torchvision
        _enter(package)
    return getattr(peer_module(f"lightly.loss.{module}"), name)


def _enter(name: str) -> list[str]:
    # Registers a package without its `__init__`, which would import missing packages; returns its path.
    if name not in sys.modules:
        parent, _, child = name.rpartition(".")
        if parent:
            path = [f"{folder}/{child}" for folder in _enter(parent)]
        elif (found := importlib.util.find_spec(name)) and found.submodule_search_locations:
            path = list(found.submodule_search_locations)
        else:
            # `make test` installs these projects, so CI always compares; plain pytest may skip.
            pytest.skip(f"{name} is missing; to compare with it see the Makefile")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = path
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    return list(sys.modules[name].__path__)


def count_parameters(kind: Any, **settings: Any) -> int:
    """Count the parameters of an encoder with these settings, without making them."""
    no_filters = mock.patch("sslsv.encoders.features._filters", lambda features: torch.zeros(1, 1))
    with torch.device("meta"), no_filters:  # torchaudio's filters need real values
        return sum(p.numel() for p in kind(build(kind.Config, settings)).parameters())


def largest_difference(theirs: nn.Module, ours: Encoder, is_training: bool, num_samples: int) -> float:
    """Return the largest absolute difference of float64 embeddings of noise, relative to the largest value."""
    waveforms = 0.1 * torch.randn(3, num_samples, generator=torch.Generator().manual_seed(4))
    ours.double().train(is_training)
    theirs.double().train(is_training)
    with torch.no_grad():
        expected = theirs(ours.features(waveforms).mT)
        found = ours(waveforms)
    expected = expected[-1] if isinstance(expected, tuple) else expected
    return float((found - expected).abs().max() / expected.abs().max())
