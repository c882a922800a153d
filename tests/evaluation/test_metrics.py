import math
import time

import numpy as np
import pytest
from scipy.stats import norm

from sslsv.evaluation.metrics import ErrorCurve, act_dcf, bayes_threshold, cllr, eer, min_cllr, min_dcf
from sslsv.evaluation.scoring import cosine_scores

METRICS = [eer, min_dcf, min_cllr]
INFORMATION = [act_dcf, cllr]

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


def random_trials(seed: int, num: int = 400, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random(num) < 0.3
    scores = generator.normal(size=num) + 1.5 * targets
    return (scores if decimals is None else scores.round(decimals)), targets


@pytest.mark.parametrize("name", VECTORS)
def test_metrics__have_the_known_values(name: str) -> None:
    target_scores, nontarget_scores, expected_eer, expected_dcf = VECTORS[name]
    scores, targets = trials(target_scores, nontarget_scores)
    assert eer(scores, targets) == pytest.approx(expected_eer, abs=1e-12)
    assert min_dcf(scores, targets) == pytest.approx(expected_dcf, abs=1e-12)


# Scores N(0, 1) and N(d, 1): EER is Phi(-d / 2); minDCF by integration.
GAUSSIAN = [
    (1, 30.85375, 0.99818, 1.0, 1.0),
    (2, 15.86553, 0.80918, 0.95106, 0.99715),
    (3, 6.68072, 0.42634, 0.63302, 0.86042),
    (4, 2.27501, 0.16220, 0.27848, 0.48922),
    (5, 0.62097, 0.04708, 0.08805, 0.18353),
]


@pytest.mark.parametrize(("separation", "expected_eer", "dcf_05", "dcf_01", "dcf_001"), GAUSSIAN)
def test_metrics__approach_the_gaussian_table(
    separation: int, expected_eer: float, dcf_05: float, dcf_01: float, dcf_001: float
) -> None:
    # Quantiles in place of random draws: no sampling noise, only a grid of 1/200000.
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    scores = np.concatenate((quantiles + separation, quantiles))
    targets = np.arange(400_000) < 200_000
    assert eer(scores, targets) == pytest.approx(expected_eer, abs=2e-3)
    for p_target, expected in ((0.05, dcf_05), (0.01, dcf_01), (0.001, dcf_001)):
        assert min_dcf(scores, targets, p_target=p_target) == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_metrics__do_not_depend_on_the_order_of_trials(metric, decimals: int | None) -> None:
    scores, targets = random_trials(3, decimals=decimals)
    orders = [np.argsort(targets), np.argsort(~targets), np.random.default_rng(0).permutation(len(scores))]
    assert {metric(scores[order], targets[order]) for order in orders} == {metric(scores, targets)}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "transform", [np.exp, lambda s: 3 * s - 7, lambda s: s**3], ids=["exp", "affine", "cube"]
)
def test_metrics__do_not_depend_on_a_rising_transform(metric, transform) -> None:
    scores, targets = random_trials(4, decimals=2)
    assert metric(transform(scores), targets) == metric(scores, targets)


def test_min_dcf__weighs_and_normalises_as_defined() -> None:
    scores, targets = random_trials(7, decimals=1)
    costs = [
        2 * 0.2 * np.mean(scores[targets] < t) + 3 * 0.8 * np.mean(scores[~targets] >= t)
        for t in [*np.unique(scores), np.inf]
    ]
    assert min_dcf(scores, targets, p_target=0.2, c_miss=2, c_fa=3) == pytest.approx(min(costs) / 0.4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_metrics__refuse_scores_that_are_not_finite(metric, wrong: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are not finite, the first is number 1"):
        metric([0.1, wrong], [1, 0])


@pytest.mark.parametrize("metric", [*METRICS, *INFORMATION])
@pytest.mark.parametrize(
    ("scores", "targets", "sentence"),
    [
        ([0.1, 0.2], [0, 0], r"None of the 2 trials is a target \(same-speaker\) trial"),
        ([0.1, 0.2], [1, 1], r"None of the 2 trials is a nontarget \(different-speaker\) trial"),
        ([], [], "None of the 0 trials"),
        ([0.1, 0.2, 0.3], [1, 0], r"scores have shape \(3,\) and targets \(2,\)"),
        ([[0.1, 0.2]], [[1, 0]], "both must be"),
        ([0.1, 0.2], [1, 2], "other than 0 and 1"),
    ],
)
def test_metrics__say_what_is_wrong_with_the_trials(metric, scores, targets, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        metric(scores, targets)


@pytest.mark.parametrize("metric", [min_dcf, act_dcf])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p_target", 0.0),
        ("p_target", 1.0),
        ("c_miss", 0.0),
        ("c_fa", -1.0),
        ("c_fa", math.inf),
        ("c_miss", math.nan),
    ],
)
def test_costs__that_define_nothing_are_refused(metric, name: str, value: float) -> None:
    with pytest.raises(ValueError, match="define no cost"):
        metric([0.1, 0.2], [1, 0], **{name: value})


@pytest.mark.parametrize(
    ("separation", "bits"), [(1, 0.83925), (2, 0.51406), (3, 0.24002), (4, 0.08718), (5, 0.02482)]
)
def test_cllr__approaches_the_gaussian_table(separation: int, bits: float) -> None:
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000) * separation
    llrs = np.concatenate((quantiles + separation**2 / 2, quantiles - separation**2 / 2))
    targets = np.arange(400_000) < 200_000
    assert cllr(llrs, targets) == pytest.approx(bits, abs=2e-5)
    # Better than any fixed map, as it is fitted to this grid, but not by much.
    assert bits - 2e-3 < min_cllr(llrs, targets) <= cllr(llrs, targets)


@pytest.mark.parametrize(
    ("target_llrs", "nontarget_llrs", "bits", "tolerance"),
    [
        ([0, 0], [0, 0, 0], 1, 0),
        ([math.log(9)], [-math.log(9)], 0.152003, 5e-7),
        ([1, 2], [-1, 0.5], 0.623074, 5e-7),
        ([math.inf, 0], [-math.inf, 0], 0.5, 1e-15),
        ([1000], [-1000], 0, 1e-300),
        ([-1000], [1000], 1000 / math.log(2), 1e-9),
        ([-math.inf], [0], math.inf, 0),
        ([0], [math.inf], math.inf, 0),
    ],
)
def test_cllr__has_the_known_values(target_llrs, nontarget_llrs, bits: float, tolerance: float) -> None:
    assert cllr(*trials(target_llrs, nontarget_llrs)) == pytest.approx(bits, abs=tolerance, rel=0)


def test_bayes_threshold__has_the_known_values() -> None:
    assert bayes_threshold() == pytest.approx(4.595120, abs=5e-7)
    assert bayes_threshold(0.05) == pytest.approx(2.944439, abs=5e-7)
    assert bayes_threshold(0.5) == 0
    assert bayes_threshold(0.5, c_miss=10) == pytest.approx(-math.log(10))


def test_act_dcf__counts_errors_at_the_bayes_threshold() -> None:
    llrs, targets = trials([5, 4.6, 4.5, -1], [4.7, 4.5, 0, -3, -9])  # threshold 4.595
    assert act_dcf(llrs, targets) == pytest.approx(2 / 4 + 99 * 1 / 5)
    assert act_dcf([bayes_threshold(), 0], [1, 0]) == 0  # at the threshold a trial is accepted
    assert act_dcf([math.inf, -math.inf], [1, 0]) == 0
    assert act_dcf([0, 0], [1, 0]) == 1


@pytest.mark.parametrize("name", VECTORS)
def test_thresholds__lie_where_the_metric_says(name: str) -> None:
    target_scores, nontarget_scores, expected_eer, expected_dcf = VECTORS[name]
    scores, targets = trials(target_scores, nontarget_scores)
    at_eer = ErrorCurve.of(scores, targets).eer_threshold()
    rates = sorted((100 * np.mean(scores[targets] < at_eer), 100 * np.mean(scores[~targets] >= at_eer)))
    assert rates[0] - 1e-9 <= expected_eer <= rates[1] + 1e-9
    at_dcf = ErrorCurve.of(scores, targets).min_dcf_threshold()
    cost = np.mean(scores[targets] < at_dcf) + 99 * np.mean(scores[~targets] >= at_dcf)
    assert cost == pytest.approx(expected_dcf, abs=1e-12)


def test_error_curve__is_exact_for_float32_scores() -> None:
    scores, targets = random_trials(2)
    single = ErrorCurve.of(scores.astype(np.float32), targets)
    double = ErrorCurve.of(scores.astype(np.float32).astype(np.float64), targets)
    assert all((a == b).all() for a, b in zip(vars(single).values(), vars(double).values(), strict=True))


def test_error_curve__scoring_and_all_metrics_of_a_million_trials_take_seconds_at_most() -> None:
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(500), 10)
    embeddings = generator.normal(size=(5000, 512)) + 0.3 * generator.normal(size=(500, 512))[speakers]
    enrol, test = generator.integers(5000, size=(2, 1_000_000))
    start = time.process_time()
    scores = cosine_scores(embeddings.astype(np.float32), enrol, test)
    curve = ErrorCurve.of(scores, speakers[enrol] == speakers[test])
    found = [curve.eer(), curve.min_dcf(), curve.min_dcf(0.05), curve.min_cllr()]
    assert time.process_time() - start < 4  # about 1.5 on a core that is not shared
    assert 0 < found[0] < 50 and 0 < found[3] < 1
