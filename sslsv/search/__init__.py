"""Search hyperparameters: a space file needs these names, `python -m sslsv.tune` does the rest."""

from sslsv.search.schedulers import Asha, Halving, Hyperband, RunAll
from sslsv.search.space import Space, When

__all__ = ["Asha", "Halving", "Hyperband", "RunAll", "Space", "When"]
