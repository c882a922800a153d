"""Search hyperparameters. Space files import these names; `sslsv tune` runs the search."""

from sslsv.search.schedulers import Asha, Halving
from sslsv.search.space import Space

__all__ = ["Asha", "Halving", "Space"]
