"""Self-supervised models, one file each; the table is what `model.name` in a configuration chooses from."""

from collections.abc import Callable

from sslsv.models.barlow_twins import BarlowTwins
from sslsv.models.base import Model, Progress, StepOutput, ViewGroup
from sslsv.models.simclr import SimCLR
from sslsv.models.vibcreg import VIbCReg
from sslsv.models.vicreg import VICReg

MODELS: dict[str, Callable[..., Model]] = {
    "simclr": SimCLR,
    "vicreg": VICReg,
    "vibcreg": VIbCReg,
    "barlow_twins": BarlowTwins,
}

__all__ = [
    "MODELS",
    "BarlowTwins",
    "Model",
    "Progress",
    "SimCLR",
    "StepOutput",
    "VIbCReg",
    "VICReg",
    "ViewGroup",
]
