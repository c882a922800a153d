"""Compare the metrics with other libraries, on 1,000 sets of random scores, most of them with ties."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from sslsv.evaluation.metrics import ErrorCurve, cllr


def score_sets() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return sets of scores, rounded to grids or continuous, from useless to nearly perfect models."""
    generator = np.random.default_rng(0)
    for number in range(1000):
        targets = generator.random(generator.integers(4, 60)) < generator.uniform(0.1, 0.9)
        targets[:2] = True, False
        scores = generator.normal(size=len(targets)) + generator.uniform(0, 4) * targets
        grid = (0, 1, 2, 16, 1024)[number % 5]
        yield (scores if grid == 0 else np.round(scores * grid) / grid), generator.permutation(targets)


def test_error_curve__is_that_of_scikit_learn_and_the_eer_where_it_crosses_the_diagonal() -> None:
    for scores, targets in score_sets():
        false_alarm, hit, thresholds = roc_curve(targets, scores, drop_intermediate=False)
        curve = ErrorCurve.of(scores, targets)
        np.testing.assert_allclose(curve.p_miss[::-1], 1 - hit, atol=1e-14)
        np.testing.assert_allclose(curve.p_fa[::-1], false_alarm, atol=1e-14)
        np.testing.assert_array_equal(curve.thresholds[::-1], thresholds)
        at = np.arange(len(hit))

        def gap(
            threshold: float, at: np.ndarray = at, x: np.ndarray = false_alarm, y: np.ndarray = 1 - hit
        ) -> float:
            # Compare along the curve, because one false-alarm rate may have many miss rates.
            return float(np.interp(threshold, at, y) - np.interp(threshold, at, x))

        crossing = brentq(gap, 0, len(hit) - 1, xtol=1e-14)
        assert curve.eer() == pytest.approx(100 * np.interp(crossing, at, 1 - hit), abs=1e-9)


def test_min_cllr__is_cllr_of_isotonic_regression() -> None:
    for scores, targets in score_sets():
        posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, targets.astype(float))
        with np.errstate(divide="ignore"):
            odds = np.log(posterior) - np.log1p(-posterior)
        llrs = odds - math.log(targets.sum() / (~targets).sum())
        assert ErrorCurve.of(scores, targets).min_cllr() == pytest.approx(cllr(llrs, targets), abs=1e-12)
