import time

import numpy as np
import pytest

from sslsv.evaluation import metrics
from sslsv.evaluation.error_curve import ErrorCurve
from sslsv.evaluation.scoring import cosine_scores


def random_trials(seed: int, num: int, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random(num) < 0.3
    scores = generator.normal(size=num) + 1.5 * targets
    return (scores if decimals is None else scores.round(decimals)), targets


def slow_hull(curve: ErrorCurve) -> list[tuple[int, int]]:
    """Points that lie strictly below the line between any two others on either side of them."""
    points = list(zip(curve.misses.tolist(), curve.false_alarms.tolist(), strict=True))
    vertices = [points[0]]
    for i in range(1, len(points) - 1):
        m, f = points[i]
        if all((m - a) * (f - d) < (c - m) * (b - f) for a, b in points[:i] for c, d in points[i + 1 :]):
            vertices.append(points[i])
    return [*vertices, points[-1]]


@pytest.mark.parametrize("seed", range(12))
def test_hull__is_what_no_line_between_points_undercuts(seed: int) -> None:
    curve = ErrorCurve.of(*random_trials(seed, 60, decimals=[None, 1, 0][seed % 3]))
    assert list(zip(*map(np.ndarray.tolist, curve.hull()), strict=True)) == slow_hull(curve)


def test_hull__of_a_curve_that_loses_one_point_at_a_time() -> None:
    # Convex but for its last point, below them all: each look at neighbours can drop one point only.
    steps = np.arange(1, 2001)
    misses = np.concatenate(([0], np.cumsum(steps), [np.sum(steps) + 1]))
    false_alarms = np.concatenate((np.cumsum(np.full(2001, 5))[::-1] + 10**9, [0]))
    curve = ErrorCurve(misses, false_alarms, np.append(np.arange(2001.0), np.inf))
    start = time.process_time()
    hull = curve.hull()
    assert time.process_time() - start < 1
    assert [column.tolist() for column in hull] == [[0, misses[-1]], [false_alarms[0], 0]]


def test_error_curve__methods_give_what_the_functions_do() -> None:
    scores, targets = random_trials(1, 500, decimals=1)
    curve = ErrorCurve.of(scores, targets)
    for name in ("eer", "eer_convex_hull", "eer_threshold", "min_dcf", "min_dcf_threshold", "min_cllr"):
        assert getattr(curve, name)() == getattr(metrics, name)(scores, targets)
    assert curve.min_dcf(0.2, 2, 3) == metrics.min_dcf(scores, targets, 0.2, 2, 3)
    assert curve.false_alarm_threshold(0.01) == metrics.false_alarm_threshold(scores, targets, 0.01)


def test_error_curve__counts_are_exact_for_float32_scores() -> None:
    scores, targets = random_trials(2, 500)
    single = ErrorCurve.of(scores.astype(np.float32), targets)
    double = ErrorCurve.of(scores.astype(np.float32).astype(np.float64), targets)
    assert all((a == b).all() for a, b in zip(vars(single).values(), vars(double).values(), strict=True))


def test_error_curve__scoring_and_all_metrics_of_a_million_trials_take_seconds_at_most() -> None:
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(500), 10)
    embeddings = generator.normal(size=(5000, 512)) + 0.3 * generator.normal(size=(500, 512))[speakers]
    embeddings = embeddings.astype(np.float32)
    enrol, test = generator.integers(5000, size=(2, 1_000_000))
    start = time.process_time()
    curve = ErrorCurve.of(cosine_scores(embeddings, enrol, test), speakers[enrol] == speakers[test])
    found = [curve.eer(), curve.eer_convex_hull(), curve.min_dcf(), curve.min_dcf(0.05), curve.min_cllr()]
    assert time.process_time() - start < 3  # under 1 on a core that is not shared
    assert 0 < found[1] <= found[0] < 50
