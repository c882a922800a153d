"""Misses and false alarms of scored trials at every threshold: all error rates follow from one sort."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Dropping points of no hull by whole arrays pays while it drops this share of them.
WORTHWHILE_SHARE = 0.1


@dataclass(frozen=True)
class ErrorCurve:
    """Numbers of misses and false alarms at the thresholds that tell scores apart; all metrics come from it.

    A trial is accepted at a score of at least the threshold. K different scores give K + 1 points, no two
    alike, by rising threshold, from accept-all (no misses) to reject-all (no false alarms), whose threshold
    is infinite. A trial may count several times; counts are whole numbers, so that comparisons are exact.
    The functions of `sslsv.evaluation.metrics` say what the methods of their names return.
    """

    misses: Counts  # (K + 1,), from 0 to the number of target trials
    false_alarms: Counts  # (K + 1,), from the number of nontarget trials to 0
    thresholds: Floats  # (K + 1,)

    @classmethod
    def of(cls, scores: ArrayLike, targets: ArrayLike) -> "ErrorCurve":
        """The curve of finite scores (N,), higher = more alike, and labels (N,), true = same speaker.

        Raises ValueError for what has no curve.
        """
        values, is_target = checked_trials(scores, targets)
        if np.asarray(scores).dtype == np.float32:  # the same order in half the time
            values = np.asarray(scores)
        # Numbers sort several times as fast as an order of them (argsort): so all of them, the targets apart,
        # and where those are among all.
        target_values, values = np.sort(values[is_target]), np.sort(values)
        # Tied scores have one threshold, before the first of them.
        firsts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        thresholds = values[firsts]
        targets_at = np.bincount(np.searchsorted(thresholds, target_values), minlength=len(firsts))
        misses = np.concatenate(([0], np.cumsum(targets_at, dtype=np.int64)))
        num_nontargets = len(values) - len(target_values)
        rejected = np.append(firsts, len(values))
        return cls(
            misses, num_nontargets - (rejected - misses), np.append(thresholds.astype(np.float64), np.inf)
        )

    @property
    def p_miss(self) -> Floats:
        """Miss rates (K + 1,), from 0 to 1."""
        rates: Floats = self.misses / self.misses[-1]
        return rates

    @property
    def p_fa(self) -> Floats:
        """False-alarm rates (K + 1,), from 1 to 0."""
        rates: Floats = self.false_alarms / self.false_alarms[0]
        return rates

    def eer(self) -> float:
        """Equal error rate in percent, linearly interpolated."""
        return _equal_error_rate(self.p_miss, self.p_fa)

    def eer_convex_hull(self) -> float:
        """Equal error rate in percent on the convex hull."""
        misses, false_alarms = self.hull()
        return _equal_error_rate(misses / misses[-1], false_alarms / false_alarms[0])

    def eer_threshold(self) -> float:
        """Threshold where the two rates are closest."""
        gaps = self.misses * self.false_alarms[0] - self.false_alarms * self.misses[-1]
        return float(self.thresholds[np.argmin(np.abs(gaps))])

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Normalised detection cost at the best threshold."""
        return float(self._costs(p_target, c_miss, c_fa).min())

    def min_dcf_threshold(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Threshold with the lowest detection cost."""
        return float(self.thresholds[np.argmin(self._costs(p_target, c_miss, c_fa))])

    def false_alarm_threshold(self, p_fa: float) -> float:
        """Lowest threshold with a false-alarm rate of at most `p_fa`."""
        if not 0 <= p_fa <= 1:
            raise ValueError(f"p_fa is {p_fa}; a false-alarm rate is between 0 and 1 (not in percent).")
        return float(self.thresholds[np.argmax(self.p_fa <= p_fa)])

    def min_cllr(self) -> float:
        """Cllr in bits after the best rising map of scores to log-likelihood ratios."""
        misses, false_alarms = self.hull()
        # A block of pool-adjacent-violators is an edge of the hull, of likelihood ratio target / nontarget.
        target, nontarget = np.diff(misses) / misses[-1], -np.diff(false_alarms) / false_alarms[0]
        return float((_bits(target, nontarget) + _bits(nontarget, target)).sum() / 2)

    def hull(self) -> tuple[Counts, Counts]:
        """Misses and false alarms at the vertices of the lower convex hull, by rising threshold, in O(K)."""
        misses, false_alarms = self.misses, self.false_alarms
        is_shrinking = True
        while is_shrinking:
            rise, fall = np.diff(misses), -np.diff(false_alarms)
            # A point on or above the line between its neighbours is no vertex, whatever becomes of them.
            is_below = rise[:-1] * fall[1:] < rise[1:] * fall[:-1]
            kept = np.flatnonzero(np.concatenate(([True], is_below, [True])))
            is_shrinking = len(kept) < (1 - WORTHWHILE_SHARE) * len(misses)
            misses, false_alarms = misses[kept], false_alarms[kept]
        return _lower_hull(misses, false_alarms)

    def _costs(self, p_target: float, c_miss: float, c_fa: float) -> Floats:
        miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
        return miss_weight * self.p_miss + fa_weight * self.p_fa


def dcf_weights(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """Factors of the miss and false-alarm rates in the normalised detection cost; the lower one is 1.

    Raises ValueError for a prior or costs that define no cost.
    """
    if not 0 < p_target < 1 or not 0 < c_miss < math.inf or not 0 < c_fa < math.inf:
        raise ValueError(
            f"p_target {p_target}, c_miss {c_miss} and c_fa {c_fa} define no cost; p_target must be "
            "between 0 and 1 and both costs above 0."
        )
    miss_cost, fa_cost = c_miss * p_target, c_fa * (1 - p_target)
    trivial_cost = min(miss_cost, fa_cost)  # of reject-all or accept-all
    return miss_cost / trivial_cost, fa_cost / trivial_cost


def checked_trials(
    scores: ArrayLike, targets: ArrayLike, is_infinite_allowed: bool = False
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores as float64 (N,) and labels as bool (N,), or a ValueError that says why they make no trials."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(
            f"scores have shape {values.shape} and targets {labels.shape}; both must be (N,), one "
            "entry per trial."
        )
    is_target = checked_targets(labels)
    is_wrong = np.isnan(values) if is_infinite_allowed else ~np.isfinite(values)
    if is_wrong.any():
        wrong, wanted = np.flatnonzero(is_wrong), "numbers" if is_infinite_allowed else "finite"
        raise ValueError(
            f"{len(wrong)} of {len(values)} scores are not {wanted}, the first is number {wrong[0]} "
            f"({values[wrong[0]]}); look at the embeddings, the model may have diverged."
        )
    return values, is_target


def checked_targets(targets: ArrayLike) -> NDArray[np.bool_]:
    """Labels as bool (N,) with both kinds among them, or a ValueError that says what is wrong."""
    labels = np.asarray(targets)
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "targets hold values other than 0 and 1; give true (1) for same-speaker trials only."
        )
    is_target = labels.astype(np.bool_)
    if not is_target.any() or is_target.all():
        missing = "nontarget (different-speaker)" if is_target.any() else "target (same-speaker)"
        raise ValueError(
            f"None of the {is_target.size} trials is a {missing} trial; error rates need both kinds."
        )
    return is_target


def _equal_error_rate(p_miss: Floats, p_fa: Floats) -> float:
    """Percent, where straight lines between the points cross p_miss = p_fa."""
    after = int(np.argmax(p_miss >= p_fa))  # never 0: the curve begins at (0, 1)
    gap_before = p_fa[after - 1] - p_miss[after - 1]
    gap_after = p_miss[after] - p_fa[after]
    share = gap_before / (gap_before + gap_after)
    return float(100 * (p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1])))


def _bits(share: Floats, other: Floats) -> Floats:
    """share * log2(1 + other / share), and 0 where the share is 0."""
    ratio = np.divide(other, share, out=np.zeros_like(share), where=share > 0)
    bits: Floats = share * np.log2(1 + ratio)
    return bits


def _lower_hull(misses: Counts, false_alarms: Counts) -> tuple[Counts, Counts]:
    """Vertices of the hull of a few points: a stack, in Python's integers."""
    vertices: list[tuple[int, int]] = []
    for miss, alarm in zip(misses.tolist(), false_alarms.tolist(), strict=True):
        while len(vertices) > 1:
            (miss_0, alarm_0), (miss_1, alarm_1) = vertices[-2:]
            if (miss_1 - miss_0) * (alarm_1 - alarm) < (miss - miss_1) * (alarm_0 - alarm_1):
                break
            vertices.pop()
        vertices.append((miss, alarm))
    both = np.array(vertices, dtype=np.int64)
    return both[:, 0], both[:, 1]
