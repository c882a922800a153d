import re
import warnings

import numpy as np
import pytest

from sslsv.reports.plots import COLORS, MAX_POINTS, drawing, step_chart, thinned

PAPERS = ("#ffffff", "#14181d")  # light and dark, as in the page's style


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("color", COLORS)
def test_colors__can_be_seen_by_day_and_by_night(color, paper):
    darker, lighter = sorted([luminance(color), luminance(paper)])
    assert (lighter + 0.05) / (darker + 0.05) >= 3  # WCAG 2.1, 1.4.11


def test_thinned__of_few_points_is_what_was_given():
    steps, mean, low, high = thinned([1, 2, 4], [5.0, 6.0, 2.0], most=3)
    assert steps.tolist() == [1, 2, 4]
    assert mean.tolist() == low.tolist() == high.tolist() == [5.0, 6.0, 2.0]


def test_thinned__keeps_mean_and_extremes_of_consecutive_points():
    steps, mean, low, high = thinned(range(10), [0.0, 1, 2, 3, 4, 5, 6, 7, 80, 9], most=2)
    assert steps.tolist() == [2.0, 7.0] and mean.tolist() == [2.0, 21.4]
    assert low.tolist() == [0.0, 5.0] and high.tolist() == [4.0, 80.0]
    assert len(thinned(range(301), np.arange(301))[1]) == MAX_POINTS


def test_drawing__ink_is_the_pages_and_text_is_text():
    svg = drawing(lambda axes: axes.set_xlabel("$\\frac{1} & <b> 話者"), "a <title>")
    assert "$\\frac{1} &amp; &lt;b&gt; 話者</text>" in svg
    assert 'aria-label="a &lt;title&gt;"' in svg
    assert "currentColor" in svg and "#000000" not in svg and "#010203" not in svg


def test_drawing__of_names_in_any_script_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing(lambda axes: axes.set_title("說話人"), "title")


def test_drawing__is_the_same_each_time():
    def paint(axes):
        axes.plot([1, 2], [3, 4])

    assert drawing(paint, "title") == drawing(paint, "title")


def test_step_chart__marks_every_curve_and_the_best_step():
    svg = step_chart("EER", {"validation": ([1, 2, 3], [3.0, 2.0, 2.5]), "trials": ([2], [9.0])}, best_step=2)
    assert "validation</text>" in svg and "trials</text>" in svg
    assert all(color in svg for color in COLORS[:2])
    assert svg.count("stroke-dasharray") == 1
    assert "stroke-dasharray" not in step_chart("EER", {"validation": ([1, 2], [3.0, 2.0])})


def test_step_chart__labels_a_logarithmic_axis_with_plain_numbers():
    svg = step_chart("norm", {"norm": ([1, 2, 3], [0.01, 1.0, 100.0])}, is_logarithmic=True)
    labels = re.findall(r">([^<>]+)</text>", svg)
    assert {"0.01", "1", "100"} <= set(labels)
    assert "mathdefault" not in svg


def test_step_chart__of_nothing_positive_has_a_linear_axis():
    assert "<svg" in step_chart("norm", {"norm": ([1, 2], [0.0, 0.0])}, is_logarithmic=True)
