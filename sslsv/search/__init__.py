"""Search hyperparameters: a space file needs these names, `sslsv tune` does the rest."""

from sslsv.search.schedulers import Asha, Halving
from sslsv.search.space import Space

__all__ = ["Asha", "Halving", "Space"]
