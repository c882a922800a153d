"""Metrics of verification scores: float64, tied scores move together, the order of trials is irrelevant.

`scores` (N,) are higher for voices more alike, `targets` (N,) true for same-speaker trials; a trial is
accepted at a score of at least the threshold. Whoever wants several metrics of the same scores sorts them
once: `curve = ErrorCurve.of(scores, targets)`, then `curve.eer()`, `curve.min_dcf(0.05)` and so on. All raise
ValueError, with a sentence, for scores or trials that have no such metric.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from sslsv.evaluation.error_curve import ErrorCurve, Floats, checked_trials, dcf_weights

__all__ = [
    "ErrorCurve",
    "act_dcf",
    "act_dcf_key",
    "bayes_threshold",
    "cllr",
    "det_curve",
    "eer",
    "eer_convex_hull",
    "eer_threshold",
    "false_alarm_threshold",
    "min_cllr",
    "min_dcf",
    "min_dcf_key",
    "min_dcf_threshold",
]


def det_curve(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Miss and false-alarm rates at every threshold that tells scores apart: `(p_miss, p_fa, thresholds)`.

    K different scores give K + 1 points by rising threshold, from accept-all (0, 1) to reject-all (1, 0),
    whose threshold is infinite.
    """
    curve = ErrorCurve.of(scores, targets)
    return curve.p_miss, curve.p_fa, curve.thresholds


def eer(scores: ArrayLike, targets: ArrayLike) -> float:
    """Equal error rate in percent: where the linearly interpolated curve has as many misses as false alarms.

    Chance is 50, and so are scores that are all the same. Swapping the labels gives 100 minus the rate.
    """
    return ErrorCurve.of(scores, targets).eer()


def eer_convex_hull(scores: ArrayLike, targets: ArrayLike) -> float:
    """Equal error rate in percent on the convex hull of the curve, at most `eer` and at most 50.

    The rate that the best mixture of two thresholds reaches (BOSARIS toolkit, arXiv 1304.2865, section 2.6).
    """
    return ErrorCurve.of(scores, targets).eer_convex_hull()


def eer_threshold(scores: ArrayLike, targets: ArrayLike) -> float:
    """Threshold, one of the scores, where miss and false-alarm rates are closest; of two the lower.

    There is hardly ever one where they are equal: `eer` lies between the two rates at this threshold.
    """
    return ErrorCurve.of(scores, targets).eer_threshold()


def min_dcf(
    scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Detection cost at the best threshold over that of accept-all or reject-all, the better: 0 to 1.

    cost = c_miss * p_target * p_miss + c_fa * (1 - p_target) * p_fa (NIST SRE 2016 plan, section 3).
    """
    return ErrorCurve.of(scores, targets).min_dcf(p_target, c_miss, c_fa)


def min_dcf_threshold(
    scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Threshold at which the detection cost is `min_dcf`, the lowest of several; infinite for reject-all."""
    return ErrorCurve.of(scores, targets).min_dcf_threshold(p_target, c_miss, c_fa)


def min_dcf_key(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> str:
    """Name of a minimum cost in files and tables: `min_dcf(p_target=0.01,c_miss=1,c_fa=1)`."""
    return f"min_dcf(p_target={p_target:g},c_miss={c_miss:g},c_fa={c_fa:g})"


def act_dcf_key(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> str:
    """Name of an actual cost in files and tables: `act_dcf(p_target=0.01,c_miss=1,c_fa=1)`."""
    return min_dcf_key(p_target, c_miss, c_fa).replace("min", "act", 1)


def false_alarm_threshold(scores: ArrayLike, targets: ArrayLike, p_fa: float) -> float:
    """Lowest threshold, one of the scores, whose false-alarm rate is at most `p_fa` (0 to 1).

    Infinite where even the highest score is a nontarget trial's and too many share it.
    """
    return ErrorCurve.of(scores, targets).false_alarm_threshold(p_fa)


def bayes_threshold(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Log-likelihood ratio from which accepting costs less: ln(c_fa (1 - p_target) / (c_miss p_target))."""
    miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
    return math.log(fa_weight / miss_weight)


def act_dcf(
    llrs: ArrayLike, targets: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Detection cost of decisions at `bayes_threshold`, normalised as `min_dcf`, and never below it.

    `llrs` (N,) are natural log-likelihood ratios, infinite ones included; raw cosines are none. Above 1 the
    decisions are worse than accepting or rejecting all.
    """
    values, is_target = checked_trials(llrs, targets, is_infinite_allowed=True)
    miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
    is_accepted = values >= bayes_threshold(p_target, c_miss, c_fa)
    p_miss, p_fa = np.mean(~is_accepted[is_target]), np.mean(is_accepted[~is_target])
    return float(miss_weight * p_miss + fa_weight * p_fa)


def cllr(llrs: ArrayLike, targets: ArrayLike) -> float:
    """Cost of log-likelihood ratios over all priors and costs, in bits; 1 for ratios that say nothing (0).

    Mean over target trials of log2(1 + exp(-llr)) and over nontargets of log2(1 + exp(llr)), halved (Brümmer
    and du Preez, Computer Speech and Language 2006). An infinite ratio costs nothing where it is right, and
    makes the cost infinite where it is wrong.
    """
    values, is_target = checked_trials(llrs, targets, is_infinite_allowed=True)
    # log(1 + exp(x)) would overflow.
    target_cost = np.logaddexp(0, -values[is_target]).mean()
    nontarget_cost = np.logaddexp(0, values[~is_target]).mean()
    return float((target_cost + nontarget_cost) / (2 * math.log(2)))


def min_cllr(scores: ArrayLike, targets: ArrayLike) -> float:
    """Cllr in bits, 0 to 1, after the best rising map of these scores to log-likelihood ratios.

    The map is that of pool-adjacent-violators, fitted on the trials themselves: what no calibration of the
    same scores can go below (BOSARIS toolkit, arXiv 1304.2865, section 2.5).
    """
    return ErrorCurve.of(scores, targets).min_cllr()
