import math

import numpy as np
import pytest

from sslsv.evaluation.calibration import Calibration, fit_calibration, posterior
from sslsv.evaluation.metrics import cllr


def gaussian_llrs(separation: float, num: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that are exact log-likelihood ratios; a quarter of the trials are targets."""
    targets = np.arange(num) < num // 4
    noise = np.random.default_rng(0).normal(size=num) * separation
    return noise + np.where(targets, 1, -1) * separation**2 / 2, targets


@pytest.mark.parametrize("separation", [1, 2, 4])
@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_fit_calibration__recovers_known_ratios(separation: float, p_target: float) -> None:
    llrs, targets = gaussian_llrs(separation)
    calibration = fit_calibration((llrs + 3) / 20, targets, p_target)
    assert calibration.scale == pytest.approx(20, rel=0.06)
    assert calibration.offset == pytest.approx(-3, abs=0.25)


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
