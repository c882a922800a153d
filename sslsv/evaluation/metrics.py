"""Compute verification metrics in float64; tied scores share a threshold, and the trial order is irrelevant.

`scores` (N,) are higher for more similar voices, `targets` (N,) are true for same-speaker trials. A trial is
accepted if its score is at least the threshold. For several metrics, sort the scores only once:
`curve = ErrorCurve.of(scores, targets)`, then `curve.eer()`, `curve.min_dcf(0.05)` and so on.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.optimize at its first use
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = NDArray[np.bool_]


def dcf_key(kind: str, p_target: float) -> str:
    """Return the name of a `min` or `act` cost in tables: `min_dcf(p_target=0.01,c_miss=1,c_fa=1)`."""
    return f"{kind}_dcf(p_target={p_target:g},c_miss=1,c_fa=1)"


def bayes_threshold(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Return the threshold for log-likelihood ratios (llrs): ln(c_fa (1 - p_target) / (c_miss p_target))."""
    miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
    return math.log(fa_weight / miss_weight)


def act_dcf(
    llrs: ArrayLike, targets: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Return the actual detection cost: that of decisions at `bayes_threshold`, normalised like `min_dcf`.

    `llrs` (N,) are natural log-likelihood ratios and may be infinite; calibrate cosines first. The cost is
    never below `min_dcf`. Above 1, the decisions are worse than the better of accept-all and reject-all.
    """
    values, is_target = checked_trials(llrs, targets, is_infinite_allowed=True)
    is_accepted = values >= bayes_threshold(p_target, c_miss, c_fa)
    p_miss, p_fa = np.mean(~is_accepted[is_target]), np.mean(is_accepted[~is_target])
    miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
    return float(miss_weight * p_miss + fa_weight * p_fa)


def cllr(llrs: ArrayLike, targets: ArrayLike) -> float:
    """Return the cost of log-likelihood ratios over all priors and costs, in bits; 1 for ratios of 0.

    It is half the sum of the means of log2(1 + exp(-llr)) over target and log2(1 + exp(llr)) over nontarget
    trials (Brümmer and du Preez, Computer Speech and Language 2006); infinite if an infinite ratio is wrong.
    """
    values, is_target = checked_trials(llrs, targets, is_infinite_allowed=True)
    costs = np.logaddexp(0, np.where(is_target, -values, values))  # avoids the overflow of log(1 + exp(x))
    return float((costs[is_target].mean() + costs[~is_target].mean()) / (2 * math.log(2)))


@dataclass(frozen=True)
class ErrorCurve:
    """Hold the numbers of misses and false alarms for each distinct score as threshold, and for reject-all.

    K distinct scores give K + 1 points in order of ascending threshold, from accept-all (no misses) to
    reject-all (no false alarms, infinite threshold). A trial may count several times, as in a bootstrap.
    Counts are integers, so that comparisons are exact.
    """

    misses: Counts  # (K + 1,), from 0 to the number of target trials
    false_alarms: Counts  # (K + 1,), from the number of nontarget trials to 0
    thresholds: Floats  # (K + 1,)

    @classmethod
    def of(cls, scores: ArrayLike, targets: ArrayLike) -> "ErrorCurve":
        """Build the curve of finite scores and labels (N,), true = same speaker; see `checked_trials`."""
        values, is_target = checked_trials(scores, targets)
        if np.asarray(scores).dtype == np.float32:  # sorts in half the time, to the same order
            values = np.asarray(scores)
        # Sorting target scores and all scores, and looking the former up, is faster than an argsort.
        target_values, values = np.sort(values[is_target]), np.sort(values)
        # Tied scores share one threshold, before the first of them.
        firsts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        thresholds = values[firsts]
        targets_at = np.bincount(np.searchsorted(thresholds, target_values), minlength=len(firsts))
        misses = np.concatenate(([0], np.cumsum(targets_at, dtype=np.int64)))
        false_alarms = len(values) - len(target_values) - (np.append(firsts, len(values)) - misses)
        return cls(misses, false_alarms, np.append(thresholds.astype(np.float64), np.inf))

    @property
    def p_miss(self) -> Floats:
        """Return miss rates (K + 1,), from 0 to 1."""
        return np.asarray(self.misses / self.misses[-1])

    @property
    def p_fa(self) -> Floats:
        """Return false-alarm rates (K + 1,), from 1 to 0."""
        return np.asarray(self.false_alarms / self.false_alarms[0])

    def eer(self) -> float:
        """Return the equal error rate in percent: where both rates of the linearly interpolated curve meet.

        Chance is 50, also if all scores are equal. Swapping the labels gives 100 minus the rate.
        """
        p_miss, gaps = self.p_miss, self.p_fa - self.p_miss
        after = int(np.argmax(gaps <= 0))  # never 0: the curve begins at (0, 1)
        share = gaps[after - 1] / (gaps[after - 1] - gaps[after])
        return float(100 * (p_miss[after - 1] + share * (p_miss[after] - p_miss[after - 1])))

    def eer_threshold(self) -> float:
        """Return the threshold, one of the scores, where both rates are closest; of several the lowest."""
        gaps = self.misses * self.false_alarms[0] - self.false_alarms * self.misses[-1]
        return float(self.thresholds[np.argmin(np.abs(gaps))])

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Return the lowest normalised detection cost of any threshold, from 0 to 1.

        cost = c_miss * p_target * p_miss + c_fa * (1 - p_target) * p_fa (NIST SRE 2016 plan, section 3),
        divided by the cost of accept-all or reject-all, whichever is lower.
        """
        return float(self._costs(p_target, c_miss, c_fa).min())

    def min_dcf_threshold(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Return the threshold of `min_dcf`; the lowest if there are several, infinite for reject-all."""
        return float(self.thresholds[np.argmin(self._costs(p_target, c_miss, c_fa))])

    def min_cllr(self) -> float:
        """Return the Cllr in bits, 0 to 1, after optimal monotonic calibration of the scores on these trials.

        The calibration uses pool-adjacent-violators (arXiv 1304.2865, section 2.5). Each of its blocks is an
        edge of the curve's convex hull, with the likelihood ratio (share of targets) / (share of nontargets).
        """
        # Isotonic regression of the share of target trials at each threshold merges points above the hull.
        hits, alarms = np.diff(self.misses), -np.diff(self.false_alarms)
        counts = (hits + alarms).astype(np.float64)
        hull = scipy.optimize.isotonic_regression(hits / counts, weights=counts).blocks
        target, nontarget = np.diff(self.p_miss[hull]), -np.diff(self.p_fa[hull])
        total = target + nontarget
        # x log2(1 + y / x) tends to 0 for x to 0, so terms with x = 0 are left out.
        bits = [x[x > 0] * np.log2(total[x > 0] / x[x > 0]) for x in (target, nontarget)]
        return float((bits[0].sum() + bits[1].sum()) / 2)

    def _costs(self, p_target: float, c_miss: float, c_fa: float) -> Floats:
        miss_weight, fa_weight = dcf_weights(p_target, c_miss, c_fa)
        return miss_weight * self.p_miss + fa_weight * self.p_fa


def dcf_weights(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
    """Return the weights of miss and false-alarm rate in the normalised detection cost; the lower one is 1.

    Raises ValueError for a prior outside (0, 1), and for costs that are not positive and finite.
    """
    if not 0 < p_target < 1 or not 0 < c_miss < math.inf or not 0 < c_fa < math.inf:
        raise ValueError(
            f"p_target {p_target}, c_miss {c_miss} and c_fa {c_fa} define no cost; p_target must be "
            "between 0 and 1 and both costs above 0."
        )
    miss_cost, fa_cost = c_miss * p_target, c_fa * (1 - p_target)
    trivial_cost = min(miss_cost, fa_cost)  # the cheaper of reject-all and accept-all
    return miss_cost / trivial_cost, fa_cost / trivial_cost


def checked_trials(
    scores: ArrayLike, targets: ArrayLike, is_infinite_allowed: bool = False
) -> tuple[Floats, Labels]:
    """Return scores as float64 (N,) and labels as bool (N,); raises ValueError for invalid trials."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(f"scores have shape {values.shape} and targets {labels.shape}; both must be (N,).")
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ValueError("targets hold values other than 0 and 1; give 1 for same-speaker trials only.")
    is_target = labels.astype(np.bool_)
    if not is_target.any() or is_target.all():
        missing = "nontarget (different-speaker)" if is_target.any() else "target (same-speaker)"
        raise ValueError(
            f"None of the {is_target.size} trials is a {missing} trial; error rates need both kinds."
        )
    is_wrong = np.isnan(values) if is_infinite_allowed else ~np.isfinite(values)
    if is_wrong.any():
        wrong, required = np.flatnonzero(is_wrong), "numbers" if is_infinite_allowed else "finite"
        raise ValueError(
            f"{len(wrong)} of {len(values)} scores are not {required}, the first is number {wrong[0]} "
            f"({values[wrong[0]]}); look at the embeddings, the model may have diverged."
        )
    return values, is_target
