import math

import numpy as np
import pytest
from scipy.optimize import minimize

from sslsv.evaluation.calibration import Calibration, fit_calibration, posterior
from sslsv.evaluation.metrics import cllr


def gaussian_llrs(separation: float, num: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are true log-likelihood ratios, a quarter of them of target trials."""
    targets = np.arange(num) < num // 4
    noise = np.random.default_rng(seed).normal(size=num) * separation
    return noise + np.where(targets, 1, -1) * separation**2 / 2, targets


def slow_cost(calibration: Calibration, scores: np.ndarray, targets: np.ndarray, p_target: float) -> float:
    x = calibration.apply(scores) + math.log(p_target / (1 - p_target))
    target_cost = np.mean([math.log1p(math.exp(-value)) for value in x[targets]])
    nontarget_cost = np.mean([math.log1p(math.exp(value)) for value in x[~targets]])
    return float(p_target * target_cost + (1 - p_target) * nontarget_cost)


@pytest.mark.parametrize("separation", [1, 2, 4])
@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_fit_calibration__recovers_known_ratios(separation: float, p_target: float) -> None:
    llrs, targets = gaussian_llrs(separation)
    calibration = fit_calibration((llrs + 3) / 20, targets, p_target)
    assert calibration.scale == pytest.approx(20, rel=0.06)
    assert calibration.offset == pytest.approx(-3, abs=0.25)


@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_fit_calibration__has_the_least_cost_that_scipy_finds(p_target: float) -> None:
    scores, targets = gaussian_llrs(3, num=800)
    best = minimize(
        lambda x: slow_cost(Calibration(*x), scores, targets, p_target),
        np.zeros(2),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    calibration = fit_calibration(scores, targets, p_target)
    assert slow_cost(calibration, scores, targets, p_target) <= best.fun + 1e-12
    np.testing.assert_allclose([calibration.scale, calibration.offset], best.x, rtol=1e-4)


@pytest.mark.parametrize(("factor", "shift"), [(1e-3, 0), (5, -2), (1e4, 1e6)])
def test_fit_calibration__does_not_depend_on_scale_and_offset_of_scores(factor: float, shift: float) -> None:
    scores, targets = gaussian_llrs(2, num=2000)
    other = factor * scores + shift
    expected = fit_calibration(scores, targets).apply(scores)
    np.testing.assert_allclose(fit_calibration(other, targets).apply(other), expected, atol=1e-6)


def test_fit_calibration__of_separated_scores_is_finite_and_sure() -> None:
    scores, targets = [0.6, 0.7, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1], [1, 1, 1, 1, 0, 0, 0, 0]
    calibration = fit_calibration(scores, targets)
    llrs = calibration.apply(scores)
    assert np.isfinite(llrs).all() and llrs[3] > 10 and llrs[4] < -10 and calibration.is_too_sure
    assert calibration.scale < 1e4
    scaled = fit_calibration(np.multiply(scores, 1e6), targets)
    assert scaled.scale * 1e6 == pytest.approx(calibration.scale, rel=1e-6)


@pytest.mark.parametrize(
    "scores", [[0.3, 0.3, 0.3, 0.3], [0, 0.1, 0.8, 0.9]], ids=["all_the_same", "reversed"]
)
def test_fit_calibration__of_scores_that_do_not_help_says_nothing(scores: list[float]) -> None:
    calibration = fit_calibration(scores, [1, 1, 0, 0])
    assert calibration == Calibration(0.0, 0.0)
    assert cllr(calibration.apply(scores), [1, 1, 0, 0]) == 1


def test_posterior__follows_bayes() -> None:
    assert posterior(0, 0.3) == pytest.approx(0.3)
    assert posterior(math.log(9), 0.5) == pytest.approx(0.9)
    assert posterior([-1000, 1000], 0.01).tolist() == [0, 1]
    assert posterior(math.log(99), 0.01) == pytest.approx(0.5)


@pytest.mark.parametrize("function", [posterior, lambda llr, p: fit_calibration([llr, 0], [1, 0], p)])
def test_calibration__refuses_what_is_no_prior(function) -> None:
    with pytest.raises(ValueError, match="p_target is 1"):
        function(0.5, 1)


@pytest.mark.parametrize(
    ("scores", "targets", "sentence"),
    [
        ([0.1, math.nan], [1, 0], "1 of 2 scores are not finite, the first is number 1"),
        ([0.1, 0.2], [1, 1], "nontarget"),
        ([0.1, 0.2], [1, 2], "other than 0 and 1"),
        ([0.1, 0.2, 0.3], [1, 0], r"scores have shape \(3,\) and targets \(2,\)"),
        ([[0.1], [0.2]], [1, 0], r"scores have shape \(2, 1\) and targets \(2,\)"),
    ],
)
def test_fit_calibration__says_what_is_wrong(scores, targets, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_calibration(scores, targets)
