import re

import numpy as np
import pytest

from sslsv.evaluation.metrics import ErrorCurve, eer
from sslsv.reports.evaluation_plots import (
    MAP_EMBEDDINGS,
    MAP_SPEAKERS,
    ErrorTradeOff,
    det_plot,
    embedding_map,
    score_plot,
)
from sslsv.reports.plots import MAX_POINTS


@pytest.fixture(scope="module")
def trials():
    generator = np.random.default_rng(0)
    targets = generator.random(20_000) < 0.3
    return generator.normal(size=20_000) + 2 * targets, targets


def test_error_trade_off__is_few_points_of_the_curve_and_close_to_all_of_it(trials):
    scores, targets = trials
    trade_off, curve = ErrorTradeOff.of(scores, targets), ErrorCurve.of(scores, targets)
    assert len(trade_off.p_fa) <= MAX_POINTS
    every = set(zip(curve.p_fa.tolist(), curve.p_miss.tolist(), strict=True))
    half_a_trial = 0.5 / np.array([curve.false_alarms[0], curve.misses[-1]])
    has_both_errors = (trade_off.p_fa > half_a_trial[0]) & (trade_off.p_miss > half_a_trial[1])
    has_both_errors &= (trade_off.p_fa < 1 - half_a_trial[0]) & (trade_off.p_miss < 1 - half_a_trial[1])
    points = np.stack([trade_off.p_fa, trade_off.p_miss], axis=1)[has_both_errors].tolist()
    assert len(points) > 200 and all(tuple(point) in every for point in points)
    between = np.interp(0.1, trade_off.p_fa[::-1], trade_off.p_miss[::-1])
    assert between == pytest.approx(np.interp(0.1, curve.p_fa[::-1], curve.p_miss[::-1]), abs=0.005)


def test_error_trade_off__marks_are_the_metrics(trials):
    trade_off = ErrorTradeOff.of(*trials)
    assert trade_off.eer == eer(*trials) / 100
    p_fa, p_miss = trade_off.cheapest
    assert (0.01 * p_miss + 0.99 * p_fa) / 0.01 == pytest.approx(ErrorCurve.of(*trials).min_dcf(0.01))


def test_det_plot__draws_scores_of_one_order_once(trials):
    scores, targets = trials
    noisy = scores + np.random.default_rng(1).normal(size=len(scores))
    trade_offs = {
        name: ErrorTradeOff.of(values, targets)
        for name, values in (("cosine(x=1)", scores), ("other", noisy), ("calibrated", 3 * scores - 1))
    }
    svg = det_plot("trials", trade_offs)
    assert re.findall(r">(cosine|other|calibrated)</", svg) == ["cosine", "calibrated", "other"]
    assert svg.count("<svg") == 1 and len(svg) < 60_000


@pytest.mark.parametrize("offset", [-20.0, 0.0, 20.0])
def test_plots__of_perfect_useless_and_inverted_scores_are_drawn(offset):
    targets = np.arange(200) % 2 == 0
    scores = np.random.default_rng(0).normal(size=200) + offset * targets
    trade_off = ErrorTradeOff.of(scores, targets)
    assert "<svg" in det_plot("trials", {"cosine": trade_off})
    assert "<svg" in score_plot("trials", scores, targets, trade_off)


def test_plots__of_scores_that_are_all_alike_are_drawn():
    targets = np.arange(20) % 2 == 0
    trade_off = ErrorTradeOff.of(np.full(20, 0.5), targets)
    assert "<svg" in det_plot("trials", {"cosine": trade_off})
    assert "<svg" in score_plot("trials", np.full(20, 0.5), targets, trade_off)


@pytest.mark.parametrize("count, method", [(4, "principal components"), (60, "t-SNE")])
def test_embedding_map__names_speakers_and_is_the_same_each_time(count, method):
    speakers = np.arange(count) // 2
    embeddings = np.random.default_rng(0).normal(size=(count, 8))
    names = [f"id{i}" for i in range(count)]
    svg = embedding_map(embeddings, speakers, names)
    assert f"{method} of {count} recordings of {count // 2} speakers" in svg and ">id1<" in svg
    assert "data:image/png;base64," in svg
    assert svg == embedding_map(embeddings, speakers, names)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4])
def test_embedding_map__of_collapsed_embeddings_is_drawn(noise):
    embeddings = np.ones((60, 8)) + noise * np.random.default_rng(0).normal(size=(60, 8))
    assert "<svg" in embedding_map(embeddings, np.arange(60) // 3, [str(i) for i in range(20)])


@pytest.mark.parametrize("num_different", [2, 3, 60])
def test_embedding_map__of_few_different_embeddings_is_drawn(num_different):
    embeddings = np.random.default_rng(0).normal(size=(60, 8))[np.arange(60) % num_different]
    assert "<svg" in embedding_map(embeddings, np.arange(60) // 3, [str(i) for i in range(20)])


@pytest.mark.parametrize("count", [5, 60])
def test_embedding_map__of_embeddings_of_one_dimension_is_drawn(count):
    embeddings = np.random.default_rng(0).normal(size=(count, 1))
    assert "<svg" in embedding_map(embeddings, np.arange(count), [str(i) for i in range(count)])


def test_embedding_map__of_two_recordings_is_none():
    assert embedding_map(np.ones((2, 4)), np.array([0, 1]), ["a", "b"]) is None


@pytest.mark.slow
def test_embedding_map__of_a_large_list_shows_a_bounded_part():
    speakers = np.repeat(np.arange(200), 100)
    embeddings = np.random.default_rng(0).normal(size=(20_000, 16))
    svg = embedding_map(embeddings, speakers, [f"id{i}" for i in range(200)])
    shown = MAP_EMBEDDINGS // MAP_SPEAKERS * MAP_SPEAKERS
    assert f"{shown:,} recordings of {MAP_SPEAKERS} speakers" in svg and len(svg) < 500_000
