"""Lightly's loss classes for comparison, without torchvision, which its packages import for their images."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest


def lightly_loss(module: str, name: str) -> Any:
    """Class `name` of lightly.loss.`module`; skips the test where lightly is missing.

    `pip install --no-deps lightly lightly-utils` is enough: packages whose __init__ would import torchvision are entered
    by their path alone.
    """
    spec = importlib.util.find_spec("lightly")
    if spec is None or spec.origin is None:
        # `make test` installs it, so CI always compares; plain pytest in a user's environment may lack it.
        pytest.skip("lightly is missing; to compare with it: pip install --no-deps lightly lightly-utils")
    root = Path(spec.origin).parent
    for package in ("lightly.loss", "lightly.models", "lightly.models.modules", "lightly.models.utils"):
        if package not in sys.modules:
            shell = types.ModuleType(package)
            shell.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
            sys.modules[package] = shell
            parent, _, child = package.rpartition(".")
            setattr(importlib.import_module(parent), child, shell)
    return getattr(importlib.import_module(f"lightly.loss.{module}"), name)
