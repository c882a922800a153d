"""Hyperparameter search: what a space file needs is here, `python -m sslsv.tune` does the rest."""

from sslsv.search.population import Population
from sslsv.search.schedulers import Asha, Halving, Hyperband, RunAll, TopK
from sslsv.search.space import Space, When

__all__ = ["Asha", "Halving", "Hyperband", "Population", "RunAll", "Space", "TopK", "When"]
