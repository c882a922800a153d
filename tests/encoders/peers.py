"""Compare encoders with those of other toolkits, which are installed without their dependencies."""

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from sslsv.encoders.base import Encoder


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


def copy_in_order(theirs: nn.Module, ours: Encoder) -> None:
    """Give `ours` random weights and statistics and copy them to `theirs`, tensor by tensor in order."""
    generator = torch.Generator().manual_seed(3)
    names = [name for name in ours.state_dict() if not name.startswith("features.")]
    state = ours.state_dict()
    for name in names:
        if state[name].is_floating_point():
            noise = torch.rand(state[name].shape, generator=generator)
            is_spread = name.endswith("running_var")
            state[name] = state[name] + noise if is_spread else state[name] + 0.1 * (noise - 0.5)
    ours.load_state_dict(state)
    expected = theirs.state_dict()
    assert len(expected) == len(names)
    theirs.load_state_dict(
        {other: state[name].view_as(expected[other]) for other, name in zip(expected, names, strict=True)}
    )


def largest_difference(
    theirs: nn.Module, ours: Encoder, is_training: bool, num_samples: int = 24000
) -> float:
    """Return the largest absolute difference of float64 embeddings of noise, relative to the largest value."""
    waveforms = 0.1 * torch.randn(3, num_samples, generator=torch.Generator().manual_seed(4))
    ours.double().train(is_training)
    theirs.double().train(is_training)
    with torch.no_grad():
        expected = theirs(ours.features(waveforms).mT)
        found = ours(waveforms)
    expected = expected[-1] if isinstance(expected, tuple) else expected
    return float((found - expected).abs().max() / expected.abs().max())
