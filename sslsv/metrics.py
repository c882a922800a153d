"""Metrics of verification scores: float64, tied scores move together, the order of trials is irrelevant."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def det_curve(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Miss and false-alarm rates at every threshold that tells scores apart: `(p_miss, p_fa, thresholds)`.

    `scores` (N,) finite, higher = more alike; `targets` (N,) true for same-speaker trials. A trial is
    accepted at a score of at least the threshold. K different scores give K + 1 points by rising threshold,
    from accept-all (0, 1) to reject-all (1, 0), whose threshold is infinite. Raises ValueError for scores or
    trials that have no curve.
    """
    misses, false_alarms, thresholds = _error_counts(scores, targets)
    return misses / misses[-1], false_alarms / false_alarms[0], thresholds


def eer(scores: ArrayLike, targets: ArrayLike) -> float:
    """Equal error rate in percent: where the linearly interpolated curve has as many misses as false alarms.

    Chance is 50, and so are scores that are all the same. Swapping the labels gives 100 minus the rate.
    """
    p_miss, p_fa, _ = det_curve(scores, targets)
    after = int(np.argmax(p_miss >= p_fa))  # never 0: the curve begins at (0, 1)
    gap_before = p_fa[after - 1] - p_miss[after - 1]
    gap_after = p_miss[after] - p_fa[after]
    share = gap_before / (gap_before + gap_after)
    return float(100 * (p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1])))


def eer_convex_hull(scores: ArrayLike, targets: ArrayLike) -> float:
    """Equal error rate in percent on the convex hull of the curve, at most `eer` and at most 50.

    The rate that the best mixture of two thresholds reaches (BOSARIS toolkit, arXiv 1304.2865, section 2.6).
    Only the edge of the hull that crosses the diagonal is searched, in exact integers.
    """
    misses, false_alarms, _ = _error_counts(scores, targets)
    num_targets, num_nontargets = int(misses[-1]), int(false_alarms[0])
    right, left = 0, len(misses) - 1  # points of the hull on either side of the diagonal
    while True:
        run = int(false_alarms[left] - false_alarms[right])
        rise = int(misses[left] - misses[right])
        below = run * (misses - misses[right]) - rise * (false_alarms - false_alarms[right])
        lowest = int(np.argmax(below))
        if below[lowest] <= 0:
            break
        if misses[lowest] * num_nontargets < false_alarms[lowest] * num_targets:
            right = lowest
        else:
            left = lowest
    miss, false_alarm = misses[right] / num_targets, false_alarms[right] / num_nontargets
    miss_step, false_alarm_step = rise / num_targets, run / num_nontargets
    return float(100 * (miss + (false_alarm - miss) / (miss_step - false_alarm_step) * miss_step))


def min_dcf(
    scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Detection cost at the best threshold over that of accept-all or reject-all, the better: 0 to 1.

    cost = c_miss * p_target * p_miss + c_fa * (1 - p_target) * p_fa (NIST SRE 2016 plan, section 3).
    """
    if not 0 < p_target < 1 or c_miss <= 0 or c_fa <= 0:
        raise ValueError(
            f"p_target {p_target}, c_miss {c_miss} and c_fa {c_fa} define no cost; p_target must be "
            "between 0 and 1 and both costs above 0."
        )
    p_miss, p_fa, _ = det_curve(scores, targets)
    miss_cost, fa_cost = c_miss * p_target, c_fa * (1 - p_target)
    return float(np.min(miss_cost * p_miss + fa_cost * p_fa) / min(miss_cost, fa_cost))


def _error_counts(
    scores: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Numbers of misses and false alarms at each threshold, rising; ends as in `det_curve`."""
    values, is_target = _checked(scores, targets)
    order = np.argsort(values)
    values, is_target = values[order], is_target[order]
    # Tied scores have one threshold, before the first of them.
    firsts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    targets_below = np.concatenate(([0], np.cumsum(is_target, dtype=np.int64)))
    rejected = np.append(firsts, len(values))
    misses = targets_below[rejected]
    num_nontargets = len(values) - targets_below[-1]
    return misses, num_nontargets - (rejected - misses), np.append(values[firsts], np.inf)


def _checked(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores as float64 and labels as bool, or a sentence that says why they make no trials."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(
            f"scores have shape {values.shape} and targets {labels.shape}; both must be (N,), one "
            "entry per trial."
        )
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "targets hold values other than 0 and 1; give true (1) for same-speaker trials only."
        )
    is_target = labels.astype(np.bool_)
    if not is_target.any() or is_target.all():
        missing = "nontarget (different-speaker)" if is_target.any() else "target (same-speaker)"
        raise ValueError(
            f"None of the {len(values)} trials is a {missing} trial; error rates need both kinds."
        )
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(values)} scores are not finite, the first is number {wrong[0]} "
            f"({values[wrong[0]]}); look at the embeddings, the model may have diverged."
        )
    return values, is_target
