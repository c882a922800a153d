import re
import warnings

import numpy as np
import pytest

from sslsv.evaluation.metrics import ErrorCurve
from sslsv.reports.plots import det_chart, drawing, line_chart, score_chart


def test_drawing__takes_its_ink_from_the_page_and_keeps_text_as_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = drawing(lambda axes: axes.set_xlabel("$\\frac{1} & <b> 話者"), "a <title>")
    assert "$\\frac{1} &amp; &lt;b&gt; 話者</text>" in svg and 'aria-label="a &lt;title&gt;"' in svg
    assert "currentColor" in svg and "#000000" not in svg and "#010203" not in svg and "http" not in svg


def test_line_chart__marks_every_labelled_curve_and_the_marks():
    curves = [("validation", [1, 2, 3], [3.0, 2.0, 2.5]), ("trials", [2], [9.0]), ("", [1], [1.0])]
    caption, svg = line_chart("EER", curves, marks=[2])
    assert caption == "EER" and re.findall(r">(validation|trials)</text>", svg) == ["validation", "trials"]
    assert svg.count("stroke-dasharray") == 1
    assert "stroke-dasharray" not in line_chart("EER", curves)[1]


def test_line_chart__of_many_points_is_small_and_shows_the_extremes():
    values = np.ones(100_000)
    values[50_000] = 20.0
    _, svg = line_chart("loss", [("loss", range(100_000), values)])
    assert len(svg) < 100_000
    assert max(float(label) for label in re.findall(r">([\d.]+)</text>", svg.partition("step")[2])) > 10


@pytest.mark.parametrize(
    ("values", "is_logarithmic"), [([0.01, 1.0, 100.0], True), ([0.0, 0.0, 50.0], False)]
)
def test_line_chart__is_logarithmic_where_values_differ_by_factors(values, is_logarithmic):
    _, svg = line_chart("norm", [("norm", [1, 2, 3], values)])
    labels = set(re.findall(r">([^<>]+)</text>", svg))
    assert ({"0.01", "1", "100"} <= labels) == is_logarithmic and "mathdefault" not in svg


@pytest.mark.parametrize("offset", [-20.0, 0.0, 20.0, None])
def test_charts__of_perfect_useless_inverted_and_constant_scores_are_drawn(offset):
    targets = np.arange(200) % 2 == 0
    scores = np.full(200, 0.5)
    if offset is not None:
        scores = np.random.default_rng(0).normal(size=200) + offset * targets
    curve = ErrorCurve.of(scores, targets)
    assert "<svg" in det_chart("trials", {"cosine": curve})[1]
    assert "<svg" in score_chart("trials", scores, targets)[1]


def test_line_chart__more_curves_than_colours_differ_in_their_lines():
    _, svg = line_chart("EER", [(f"curve {i}", [1, 2], [i, i]) for i in range(10)])
    looks = re.findall(r'style="fill: none; (stroke-dasharray: [^;]*; )?[^"]*stroke: (#\w+)', svg)
    assert len({look for look in looks if look[1] != "#b0b0b0"}) >= 10


def test_line_chart__grows_with_its_labels_so_that_the_curves_keep_their_room():
    heights = []
    for name, count in (("a", 3), ("a", 30), ("a" * 60, 3), ("a" * 60, 30)):
        _, svg = line_chart("EER", [(f"{i}{name}", [1, 2], [i, i]) for i in range(count)])
        heights.append(float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1]))
        assert len(re.findall(r">\d+a+</text>", svg)) == min(count, 24)  # at most 24 styles
    few, many, long, many_long = heights
    assert few < long < many < many_long
