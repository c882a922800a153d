"""Confidence intervals of what log-likelihood ratios cost, by the draws of speakers of `intervals`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sslsv.evaluation.error_curve import Counts, Floats, checked_trials, dcf_weights
from sslsv.evaluation.intervals import (
    Interval,
    check_bootstrap,
    draws_of_speakers,
    numbered_speakers,
    percentiles,
)
from sslsv.evaluation.metrics import act_dcf_key, bayes_threshold


def cost_bootstrap(
    llrs: ArrayLike,
    targets: ArrayLike,
    enrol_speakers: ArrayLike,
    test_speakers: ArrayLike,
    *,
    p_targets: tuple[float, ...] = (0.01,),
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of `cllr` and of act_dcf at each prior (`metrics.act_dcf_key`).

    Arguments, draws and errors are those of `speaker_bootstrap`. These metrics are means over trials, so that
    the sums of each pair of speakers are enough.
    """
    check_bootstrap(replicates, confidence)
    values, is_target = checked_trials(llrs, targets)
    first, second = numbered_speakers(is_target, enrol_speakers, test_speakers)
    costs = {"cllr": np.logaddexp(0, np.where(is_target, -values, values)) / (2 * np.log(2))}
    for p_target in p_targets:
        miss_weight, fa_weight = dcf_weights(p_target, 1.0, 1.0)
        is_wrong = (values >= bayes_threshold(p_target)) != is_target
        costs[act_dcf_key(p_target)] = is_wrong * np.where(is_target, miss_weight, fa_weight)
    rows = np.stack(list(costs.values()))
    same, different = (_PairSums.of(rows, kind, first, second) for kind in (is_target, ~is_target))
    num_speakers = 1 + max(int(first.max()), int(second.max()))
    found = list[Floats]()
    for weights in draws_of_speakers(num_speakers, np.random.default_rng(seed)):
        misses, alarms = same.means(weights), different.means(weights)
        if misses is not None and alarms is not None:
            found.append(misses + alarms)
        if len(found) == replicates:
            break
    return percentiles(dict(zip(costs, np.transpose(found).tolist(), strict=True)), confidence)


@dataclass(frozen=True)
class _PairSums:
    """Costs of the trials of one kind, summed by pair of speakers."""

    first: Counts  # (P,)
    second: Counts  # (P,), the first again where the trials are target trials
    counts: Floats  # (P,)
    sums: Floats  # (M, P), of each metric

    @classmethod
    def of(cls, costs: Floats, is_kind: NDArray[np.bool_], first: Counts, second: Counts) -> "_PairSums":
        low, high = np.minimum(first, second)[is_kind], np.maximum(first, second)[is_kind]
        base = 1 + int(high.max())
        keys, at, counts = np.unique(low * base + high, return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(at, row[is_kind]).astype(np.float64) for row in costs])
        return cls(keys // base, keys % base, counts.astype(np.float64), sums)

    def means(self, weights: Counts) -> Floats | None:
        """Mean costs (M,) where speakers weigh as given, or None where no trial is left."""
        is_one_speaker = self.first == self.second
        pairs = weights[self.first] * np.where(is_one_speaker, 1, weights[self.second])
        total = float(self.counts @ pairs)
        return self.sums @ pairs / total if total else None
