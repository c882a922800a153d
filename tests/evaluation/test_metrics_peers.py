"""The metrics against other people's code, on 1,000 sets of random scores, most of them with ties."""

import ast
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from sslsv.evaluation.metrics import ErrorCurve, cllr, eer, min_cllr, min_dcf

NUM_SETS = 1000


def score_sets() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores on grids from coarse to fine, or on none, of models from useless to nearly perfect."""
    generator = np.random.default_rng(0)
    for number in range(NUM_SETS):
        targets = generator.random(generator.integers(4, 60)) < generator.uniform(0.1, 0.9)
        targets[:2] = True, False
        scores = generator.normal(size=len(targets)) + generator.uniform(0, 4) * targets
        grid = (0, 1, 2, 16, 1024)[number % 5]
        yield (scores if grid == 0 else np.round(scores * grid) / grid), generator.permutation(targets)


def speechbrain_function(name: str) -> Any:
    """Function `name` of speechbrain.utils.metric_stats, which needs torch only, while the module needs much more.

    Skips the test where speechbrain is missing; `pip install --no-deps speechbrain` is enough.
    """
    spec = importlib.util.find_spec("speechbrain")
    if spec is None or spec.origin is None:
        # `make test` installs it, so CI always compares; plain pytest in a user's environment may lack it.
        pytest.skip("speechbrain is missing; to compare with it: pip install --no-deps speechbrain")
    file = Path(spec.origin).parent / "utils" / "metric_stats.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(tree, str(file), "exec"), namespace)
    return namespace[name]


def test_error_curve__is_that_of_scikit_learn() -> None:
    for scores, targets in score_sets():
        false_alarm, hit, thresholds = roc_curve(targets, scores, drop_intermediate=False)
        curve = ErrorCurve.of(scores, targets)
        np.testing.assert_allclose(curve.p_miss[::-1], 1 - hit, atol=1e-14)
        np.testing.assert_allclose(curve.p_fa[::-1], false_alarm, atol=1e-14)
        np.testing.assert_array_equal(curve.thresholds[::-1], thresholds)


def test_eer__is_where_scikit_learns_curve_crosses_the_diagonal() -> None:
    for scores, targets in score_sets():
        false_alarm, hit, _ = roc_curve(targets, scores, drop_intermediate=False)

        def gap(share: float, x: np.ndarray = false_alarm, y: np.ndarray = 1 - hit) -> float:
            # Along the curve, as there may be many miss rates at one false-alarm rate.
            at = np.arange(len(x))
            return float(np.interp(share, at, y) - np.interp(share, at, x))

        crossing = brentq(gap, 0, len(hit) - 1, xtol=1e-14)
        expected = 100 * np.interp(crossing, np.arange(len(hit)), 1 - hit)
        assert eer(scores, targets) == pytest.approx(expected, abs=1e-9)


def test_eer__is_within_half_a_step_of_speechbrain() -> None:
    theirs = speechbrain_function("EER")
    for scores, targets in score_sets():
        single = torch.from_numpy(scores).float()
        expected, _ = theirs(single[targets], single[~targets])
        curve = ErrorCurve.of(single.numpy(), targets)
        p_miss, p_fa = curve.p_miss, curve.p_fa
        # They take the mean of both rates at the closest threshold, and none that accepts all trials.
        gaps = np.abs(p_miss - p_fa)[1:]
        closest = np.flatnonzero(gaps <= gaps.min() + 1e-6)  # they compare in float32
        means = (p_miss + p_fa)[1:][closest] / 2
        assert np.abs(means - expected).min() < 1e-6
        # The interpolated rate lies between the two.
        assert abs(eer(single.numpy(), targets) / 100 - expected) <= gaps.min() / 2 + 1e-6


def test_min_dcf__is_that_of_speechbrain_once_normalised() -> None:
    theirs = speechbrain_function("minDCF")
    for scores, targets in score_sets():
        single = torch.from_numpy(scores).float()
        cost, _ = theirs(single[targets], single[~targets], p_target=0.05)
        assert min_dcf(single.numpy(), targets, p_target=0.05) == pytest.approx(cost / 0.05, abs=1e-5)


def test_min_cllr__is_cllr_of_isotonic_regression() -> None:
    for scores, targets in score_sets():
        posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, targets.astype(float))
        with np.errstate(divide="ignore"):
            odds = np.log(posterior) - np.log1p(-posterior)
        llrs = odds - math.log(targets.sum() / (~targets).sum())
        assert min_cllr(scores, targets) == pytest.approx(cllr(llrs, targets), abs=1e-12)
