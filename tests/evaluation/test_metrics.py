import math

import numpy as np
import pytest

from sslsv.evaluation.metrics import ErrorCurve, act_dcf, bayes_threshold, cllr

# target scores, nontarget scores, EER %, minDCF(.01)
VECTORS = {
    "separated": ([0.6, 0.7, 0.8, 0.5], [0.4, 0.3, 0.2, 0.1], 0, 0),
    "one_low_target": ([0.9, 0.8, 0.4], [0.7, 0.3, 0.2, 0.1], 25, 1 / 3),
    "all_tied": ([0, 0, 0], [0, 0, 0], 50, 1),
    "many_ties": ([3, 3, 2, 2, 1], [2, 2, 1, 1, 0, 0, 0, 0, 0, 0], 20, 0.6),
    "reversed": ([0.1, 0.2], [0.8, 0.9], 100, 1),
    "pairwise_tied": ([1, 0], [1, 0], 50, 1),
    "one_target": ([0.5], [0.6, 0.4, 0.3], 100 / 3, 1),
}


def trials(target_scores: list[float], nontarget_scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([*target_scores, *nontarget_scores], dtype=float)
    return scores, np.arange(len(scores)) < len(target_scores)


def random_trials(seed: int, decimals: int = 15) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random(400) < 0.3
    return (generator.normal(size=400) + 1.5 * targets).round(decimals), targets


def values_of(scores: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    curve = ErrorCurve.of(scores, targets)
    return curve.eer(), curve.min_dcf(), curve.min_dcf(0.05), curve.min_cllr()


@pytest.mark.parametrize("name", VECTORS)
def test_error_curve__has_the_known_values_and_thresholds_where_the_metrics_lie(name: str) -> None:
    target_scores, nontarget_scores, expected_eer, expected_dcf = VECTORS[name]
    scores, targets = trials(target_scores, nontarget_scores)
    curve = ErrorCurve.of(scores, targets)
    assert curve.eer() == pytest.approx(expected_eer, abs=1e-12)
    assert curve.min_dcf() == pytest.approx(expected_dcf, abs=1e-12)
    at = curve.eer_threshold()
    low, high = sorted((100 * np.mean(scores[targets] < at), 100 * np.mean(scores[~targets] >= at)))
    assert low - 1e-9 <= expected_eer <= high + 1e-9
    at = curve.min_dcf_threshold()
    cost = np.mean(scores[targets] < at) + 99 * np.mean(scores[~targets] >= at)
    assert cost == pytest.approx(expected_dcf, abs=1e-12)


@pytest.mark.parametrize("decimals", [15, 1, 0])
def test_error_curve__knows_no_order_of_trials_and_no_rising_transform(decimals: int) -> None:
    scores, targets = random_trials(3, decimals)
    orders = [np.argsort(targets), np.argsort(~targets), np.random.default_rng(0).permutation(len(scores))]
    changed = {values_of(scores[order], targets[order]) for order in orders}
    changed |= {values_of(change(scores), targets) for change in (np.exp, lambda s: 3 * s - 7)}
    assert changed == {values_of(scores, targets)}


def test_min_dcf__weighs_and_normalises_as_defined() -> None:
    scores, targets = random_trials(7, decimals=1)
    costs = [
        2 * 0.2 * np.mean(scores[targets] < t) + 3 * 0.8 * np.mean(scores[~targets] >= t)
        for t in [*np.unique(scores), np.inf]
    ]
    found = ErrorCurve.of(scores, targets).min_dcf(p_target=0.2, c_miss=2, c_fa=3)
    assert found == pytest.approx(min(costs) / 0.4)


@pytest.mark.parametrize("metric", [ErrorCurve.of, act_dcf, cllr])
@pytest.mark.parametrize(
    ("scores", "targets", "sentence"),
    [
        ([0.1, math.nan], [1, 0], "1 of 2 scores are not"),
        ([0.1, 0.2], [0, 0], r"None of the 2 trials is a target \(same-speaker\) trial"),
        ([0.1, 0.2], [1, 1], r"None of the 2 trials is a nontarget \(different-speaker\) trial"),
        ([0.1, 0.2, 0.3], [1, 0], r"scores have shape \(3,\) and targets \(2,\)"),
        ([0.1, 0.2], [1, 2], "other than 0 and 1"),
    ],
)
def test_metrics__say_what_is_wrong_with_the_trials(metric, scores, targets, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        metric(scores, targets)


@pytest.mark.parametrize("values", [{"p_target": 1.0}, {"c_miss": 0.0}, {"c_fa": math.inf}])
def test_costs__that_define_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="define no cost"):
        bayes_threshold(**values)


@pytest.mark.parametrize(
    ("target_llrs", "nontarget_llrs", "bits", "tolerance"),
    [
        ([0, 0], [0, 0, 0], 1, 0),
        ([1, 2], [-1, 0.5], 0.623074, 5e-7),
        ([math.inf, 0], [-math.inf, 0], 0.5, 1e-15),
        ([-1000], [1000], 1000 / math.log(2), 1e-9),
        ([0], [math.inf], math.inf, 0),
    ],
)
def test_cllr__has_the_known_values(target_llrs, nontarget_llrs, bits: float, tolerance: float) -> None:
    assert cllr(*trials(target_llrs, nontarget_llrs)) == pytest.approx(bits, abs=tolerance, rel=0)


def test_bayes_threshold__has_the_known_values() -> None:
    assert bayes_threshold() == pytest.approx(4.595120, abs=5e-7)
    assert bayes_threshold(0.5) == 0
    assert bayes_threshold(0.5, c_miss=10) == pytest.approx(-math.log(10))


def test_act_dcf__counts_errors_at_the_bayes_threshold() -> None:
    llrs, targets = trials([5, 4.6, 4.5, -1], [4.7, 4.5, 0, -3, -9])  # threshold 4.595
    assert act_dcf(llrs, targets) == pytest.approx(2 / 4 + 99 * 1 / 5)
    assert act_dcf([bayes_threshold(), 0], [1, 0]) == 0  # at the threshold a trial is accepted
    assert act_dcf([math.inf, -math.inf], [1, 0]) == 0


def test_error_curve__is_exact_for_float32_scores() -> None:
    scores, targets = random_trials(2)
    single = ErrorCurve.of(scores.astype(np.float32), targets)
    double = ErrorCurve.of(scores.astype(np.float32).astype(np.float64), targets)
    assert all((a == b).all() for a, b in zip(vars(single).values(), vars(double).values(), strict=True))
