"""Confidence intervals of verification metrics by resampling speakers, not trials.

Trials that share a speaker have correlated errors. Drawing trials as if they were independent would make
intervals too narrow (NIST's two-layer bootstrap, PMC5484007).
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sslsv.evaluation import metrics
from sslsv.evaluation.metrics import Counts, ErrorCurve, Floats, Labels


class Interval(NamedTuple):
    """Hold the ends of a 95 % confidence interval, in the unit of its metric."""

    low: float
    high: float


def speaker_bootstrap(
    scores: ArrayLike,
    targets: ArrayLike,
    enrol_speakers: ArrayLike,
    test_speakers: ArrayLike,
    *,
    p_targets: tuple[float, ...] = (0.01,),
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % percentile intervals of all metrics of scores (N,), by name.

    The names are `eer`, `min_cllr`, `cllr`, and the `dcf_key` of the `min` and `act` costs at each prior.
    `cllr` and `act` costs treat scores as log-likelihood ratios. `enrol_speakers` and `test_speakers` (N,)
    are the speakers of each trial.

    A replicate draws S of the S speakers, with replacement. Target trials of a speaker drawn w times have
    weight w; nontarget trials of speakers a and b have weight w_a * w_b. A draw without target or nontarget
    trials is repeated. The result depends on the seed, not on the order of trials. With ten speakers or fewer
    intervals are too narrow (in simulations 87 % instead of 95 % contained the true EER). If a list has no
    errors at all, they have zero width.
    """
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; there must be at least 1.")
    values, is_target = metrics.checked_trials(scores, targets)
    curve, costs = ErrorCurve.of(values, is_target), _costs(values, is_target, p_targets)
    target_costs, nontarget_costs = costs[:, is_target], costs[:, ~is_target]
    starts = _run_starts(curve)
    run_of_trial = np.searchsorted(starts, values, side="right") - 1
    runs = run_of_trial[is_target], run_of_trial[~is_target]
    results: list[list[float]] = []
    draws = _draws(is_target, enrol_speakers, test_speakers, np.random.default_rng(seed))
    for weights in islice(draws, replicates):
        # The weights are integers, which float64 sums exactly.
        hits, alarms = (
            np.bincount(indices, weight, len(starts)).astype(np.int64)
            for indices, weight in zip(runs, weights, strict=True)
        )
        is_drawn = hits + alarms > 0
        misses, rejections = np.cumsum(hits[is_drawn]), np.cumsum(alarms[is_drawn])
        drawn_curve = ErrorCurve(
            np.concatenate(([0], misses)),
            rejections[-1] - np.concatenate(([0], rejections)),
            np.append(starts[is_drawn], np.inf),
        )
        means = target_costs @ weights[0] / misses[-1] + nontarget_costs @ weights[1] / rejections[-1]
        curve_metrics = [drawn_curve.eer(), drawn_curve.min_cllr(), *map(drawn_curve.min_dcf, p_targets)]
        results.append([*curve_metrics, *means.tolist()])
    ends = np.quantile(results, [0.025, 0.975], axis=0).T.tolist()
    dcf_names = {kind: [metrics.dcf_key(kind, p) for p in p_targets] for kind in ("min", "act")}
    names = ["eer", "min_cllr", *dcf_names["min"], "cllr", *dcf_names["act"]]
    return {name: Interval(low, high) for name, (low, high) in zip(names, ends, strict=True)}


def _run_starts(curve: ErrorCurve) -> Floats:
    # Returns the scores at which runs of trials of one kind begin. Thresholds within a run do not affect the
    # metrics, so one point per run saves most of the work. Tied scores of both kinds form a run of their own.
    is_hit, is_alarm = np.diff(curve.misses) > 0, np.diff(curve.false_alarms) < 0
    is_mixed = is_hit & is_alarm
    is_start = is_mixed | np.concatenate(([True], (is_hit[1:] != is_hit[:-1]) | is_mixed[:-1]))
    return curve.thresholds[:-1][is_start]


def _costs(values: Floats, is_target: Labels, p_targets: tuple[float, ...]) -> Floats:
    # Returns costs (1 + P, N) of trials; a metric is the mean over target plus that over nontarget trials.
    rows = [np.logaddexp(0, np.where(is_target, -values, values)) / (2 * np.log(2))]
    for p_target in p_targets:
        is_wrong = (values >= metrics.bayes_threshold(p_target)) != is_target
        rows.append(is_wrong * np.where(is_target, *metrics.dcf_weights(p_target)))
    return np.stack(rows)


def _draws(
    is_target: Labels, enrol_speakers: ArrayLike, test_speakers: ArrayLike, rng: np.random.Generator
) -> Iterator[tuple[Floats, Floats]]:
    # Yields the weights of target and of nontarget trials for endless draws of speakers. Draws without a
    # target or a nontarget trial are repeated; at least 1 draw in 5 is usable.
    sides = np.stack((np.asarray(enrol_speakers), np.asarray(test_speakers)))
    names, numbers = np.unique(sides, return_inverse=True)
    enrol, test = numbers.reshape(2, -1)
    target_speaker, enrol, test = enrol[is_target], enrol[~is_target], test[~is_target]
    while True:
        drawn = rng.integers(len(names), size=len(names))
        weights = np.bincount(drawn, minlength=len(names)).astype(np.float64)
        target_weights, nontarget_weights = weights[target_speaker], weights[enrol] * weights[test]
        if target_weights.any() and nontarget_weights.any():
            yield target_weights, nontarget_weights


def speakers_from_trials(
    num_recordings: int, enrol: ArrayLike, test: ArrayLike, targets: ArrayLike
) -> tuple[Counts, Labels]:
    """Return speaker numbers (R,) of recordings, and a mask (N,) of nontarget trials that contradict them.

    Recordings connected by target trials, directly or through other recordings, share a speaker. A recording
    in no target trial is a speaker of its own. `enrol`, `test` (N,) are recording indices, `targets` labels.
    """
    first, second, is_target = np.asarray(enrol), np.asarray(test), np.asarray(targets, dtype=np.bool_)
    links = coo_array(
        (np.ones(is_target.sum(), dtype=np.int8), (first[is_target], second[is_target])),
        shape=(num_recordings, num_recordings),
    )
    speakers: Counts = connected_components(links, directed=False)[1].astype(np.int64)
    return speakers, ~is_target & (speakers[first] == speakers[second])
