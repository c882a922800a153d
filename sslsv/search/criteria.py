"""Say which metrics may choose, and how well those without labels would have chosen, by the EER."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from sslsv.config import Criterion, LowerIsBetter

CRITERIA = list(get_args(Criterion))  # the metrics that may choose: of validation, or without labels
LABEL_FREE = [name for name in CRITERIA if name.startswith("label_free/")]
TRUTH = "eer"
FEWEST = 3  # trials that are compared: an order of two says nothing


def is_lower_better(metric: str) -> bool:
    """Tell the direction of a metric."""
    return metric in get_args(LowerIsBetter)


@dataclass(frozen=True)
class Ranking:
    """Compare a criterion with the EER over the trials of one rung."""

    criterion: str
    epoch: int
    trials: int
    tau: float | None  # Kendall's tau-b, -1 to 1: 1 where both order alike; None where one is constant
    regret: float  # percent of EER that the criterion's choice loses against the best trial
    overlap: float  # share of its best `top` that are among the best `top` by EER
    top: int


def rank_criterion(
    criterion: str, values: Sequence[float], eers: Sequence[float], epoch: int = 0, top: int = 3
) -> Ranking:
    """Compare the order of values (N,) with that of EERs (N,), of the same trials.

    Where the criterion finds several equally best, the regret is the mean of theirs.  `top` is at most half
    of the trials, because all of them overlap always.
    """
    from scipy.stats import kendalltau  # takes half a second, and refusals do not need it

    costs = np.asarray(values, dtype=np.float64) * (1 if is_lower_better(criterion) else -1)
    truth = np.asarray(eers, dtype=np.float64)
    top = max(min(top, len(truth) // 2), 1)
    chosen, best = (set(np.argsort(order, kind="stable")[:top].tolist()) for order in (costs, truth))
    tau = float(kendalltau(costs, truth).statistic)
    return Ranking(
        criterion=criterion,
        epoch=epoch,
        trials=len(truth),
        tau=None if math.isnan(tau) else tau,
        regret=float(truth[costs == costs.min()].mean() - truth.min()),
        overlap=len(chosen & best) / top,
        top=top,
    )


def rank_criteria(at_rungs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Ranking]:
    """Rank every label-free criterion at every rung: epoch -> the records of the trials that reached it.

    Trials are compared at the same epoch only.  Rungs with less than three trials are left out.
    """
    found = []
    for epoch, records in at_rungs.items():
        for criterion in LABEL_FREE:
            measured = [r for r in records if is_number(r.get(criterion)) and is_number(r.get(TRUTH))]
            if len(measured) >= FEWEST:
                values, eers = ([record[key] for record in measured] for key in (criterion, TRUTH))
                found.append(rank_criterion(criterion, values, eers, epoch))
    return found


def is_number(value: Any) -> bool:
    """Tell whether a value of a record is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)
