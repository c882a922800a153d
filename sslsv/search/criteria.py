"""List the metrics that may choose, and measure by the EER how well those without labels would."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from sslsv.config import Criterion, LowerIsBetter

CRITERIA = list(get_args(Criterion))  # the metrics that may choose: of validation, or without labels
LABEL_FREE = [name for name in CRITERIA if name.startswith("label_free/")]
TRUTH = "eer"
FEWEST = 3  # trials to compare: the order of two says nothing


def is_lower_better(metric: str) -> bool:
    """Tell whether lower values of a metric are better."""
    return metric in get_args(LowerIsBetter)


@dataclass(frozen=True)
class Ranking:
    """Compare a criterion with the EER over the trials of one rung."""

    criterion: str
    epoch: int
    trials: int
    tau: float | None  # Kendall's tau-b, -1 to 1: 1 where both order alike; None where one is constant
    regret: float  # percent of EER that the criterion's choice loses against the best trial


def rank_criterion(criterion: str, values: npt.ArrayLike, eers: npt.ArrayLike, epoch: int = 0) -> Ranking:
    """Compare the order of values (N,) with that of EERs (N,), of the same trials.

    If several values are equally best, the regret is the mean of theirs.
    """
    from scipy.stats import kendalltau  # takes half a second, and refusals do not need it

    costs = np.asarray(values, dtype=np.float64) * (1 if is_lower_better(criterion) else -1)
    truth = np.asarray(eers, dtype=np.float64)
    tau = float(kendalltau(costs, truth).statistic)
    regret = float(truth[costs == costs.min()].mean() - truth.min())
    return Ranking(criterion, epoch, len(truth), None if math.isnan(tau) else tau, regret)


def rank_criteria(at_rungs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Ranking]:
    """Rank every label-free criterion at every rung: epoch -> the records of the trials that reached it.

    Trials are compared at the same epoch only.  Rungs with less than three trials are left out.
    """
    found = []
    for epoch, records in at_rungs.items():
        for criterion in LABEL_FREE:
            pairs = [(record.get(criterion), record.get(TRUTH)) for record in records]
            known = np.array(pairs, dtype=np.float64).reshape(-1, 2)  # None becomes NaN
            values, eers = known[np.isfinite(known).all(axis=1)].T
            if len(values) >= FEWEST:
                found.append(rank_criterion(criterion, values, eers, epoch))
    return found
