"""Compare encoders with those of other toolkits, which are installed without their dependencies."""

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
    """Import `wespeaker.models.resnet` and the like; skips the test where the toolkit is missing.

    Packages are entered by their path alone: their `__init__` would import what is not installed.
    """
    if name in sys.modules:
        return sys.modules[name]
    top = name.split(".")[0]
    if top not in sys.modules:
        found = importlib.util.find_spec(top)
        if found is None or not found.submodule_search_locations:
            # `make test` installs them, so CI always compares; plain pytest in a user's environment may not.
            pytest.skip(f"{top} is missing; to compare with it see the Makefile")
        sys.modules[top] = _shell(top, list(found.submodule_search_locations))
    package = sys.modules[top]
    for part in name.split(".")[1:-1]:
        child = f"{package.__name__}.{part}"
        if child not in sys.modules:
            sys.modules[child] = _shell(child, [f"{folder}/{part}" for folder in package.__path__])
        package = sys.modules[child]
    return importlib.import_module(name)


def _shell(name: str, path: list[str]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = path
    return module


def count_parameters(kind: Any, **settings: Any) -> int:
    """Count the parameters of an encoder with these settings, without making them."""
    no_filters = mock.patch("sslsv.encoders.features._filters", lambda features: torch.zeros(1, 1))
    with torch.device("meta"), no_filters:  # torchaudio's need values
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
