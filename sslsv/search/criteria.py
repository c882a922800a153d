"""How well a criterion without labels would have chosen: its order of the trials against their EER's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy.stats import kendalltau

from sslsv.config import Criterion, LowerIsBetter

TRUTH = "eer"
LABEL_FREE = tuple(name for name in get_args(Criterion) if name.startswith("label_free/"))
FEWEST = 3  # trials that are compared: an order of two says nothing


@dataclass(frozen=True)
class Ranking:
    """A criterion against the EER, over the trials of one rung."""

    criterion: str
    epoch: int
    trials: int
    tau: (
        float | None
    )  # Kendall's tau-b, -1 to 1: 1 where both order alike; None where one of them is constant
    regret: float  # percent of EER that its choice loses against the best trial
    overlap: float  # share of its best `top` that are among the best `top` by EER
    top: int


def rank_criterion(
    criterion: str, values: Sequence[float], eers: Sequence[float], epoch: int = 0, top: int = 3
) -> Ranking:
    """Compare the order of values (N,) with that of EERs (N,), of the same trials.

    Where the criterion finds several equally best, the regret is the mean of theirs.  `top` is lowered to
    half of the trials, because all of them overlap always.
    """
    is_lower_better = criterion in get_args(LowerIsBetter)
    costs = np.asarray(values, dtype=np.float64) * (1 if is_lower_better else -1)
    truth = np.asarray(eers, dtype=np.float64)
    top = max(min(top, len(truth) // 2), 1)
    chosen = set(np.argsort(costs, kind="stable")[:top].tolist())
    best = set(np.argsort(truth, kind="stable")[:top].tolist())
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
    """Every label-free criterion at every rung: epoch -> the records of the trials that reached it.

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


def describe_rankings(rankings: Sequence[Ranking]) -> list[str]:
    """One line for each, as the terminal shows them below a heading."""
    lines = []
    for found in rankings:
        tau = "undefined" if found.tau is None else f"{found.tau:+.2f}"
        lines.append(
            f"{found.criterion} at epoch {found.epoch}, {found.trials} trials: Kendall tau {tau}, regret "
            f"{found.regret:.2f} % EER, {found.overlap * found.top:.0f} of its best {found.top} are among "
            f"the best {found.top}"
        )
    return lines


def is_number(value: Any) -> bool:
    """Whether a value of a record is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)
