"""Draw the figures of the reports as SVG that uses the text colour and the font of the page."""

import html
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from sslsv.evaluation.metrics import ErrorCurve, Floats, Labels
from sslsv.reports.page import Figure

Curve = tuple[str, Sequence[float], Sequence[float]]  # label, x (N,), y (N,)
Axes = Any  # Matplotlib takes half a second to import, so only drawing imports it.

STYLE = Path(__file__).with_name("page.mplstyle")
INK = "#010203"  # placeholder for the text colour of the page, also in the style
PALE = {"color": INK, "alpha": 0.2, "label": None}
SMALL, LARGE = (4.6, 2.6), (5.2, 4.4)  # inches
MAX_POINTS, MAX_CURVES = 300, 24  # More points or line styles are indistinguishable.
MAX_WRITTEN, MAX_NAMES = 12, 40  # most labels of a confusion matrix with numbers, and with all names
P_TARGET = 0.01  # The figures mark the lowest detection cost at this prior.
RATES = (0.001, 0.01, 0.1, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 99)  # percent


def drawing(paint: Callable[[Axes], Any], title: str, size: tuple[float, float] = SMALL) -> str:
    """Return what `paint` draws as an SVG that scales with the page; `size` is in inches.

    The title is read by screen readers, and makes the element ids of the figures of a page differ.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    stream, no_metadata = StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": title}, STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # The browser draws glyphs that the font lacks.
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas.add_subplot())
        canvas.savefig(stream, format="svg", metadata=no_metadata)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' (xmlns(:\w+)?|id)="(http[^"]*|[\w.]+_\d+)"', "", svg)  # HTML needs no namespaces.
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def line_chart(
    caption: str,
    curves: Sequence[Curve],
    marks: Sequence[int] = (),
    xlabel: str = "step",
    is_log: bool = False,
) -> Figure:
    """Draw curves and a dotted line at each of the `marks`; curves without a label are pale.

    Labels beyond `MAX_CURVES` are left out. A curve of more than `MAX_POINTS` points is drawn as means of
    consecutive points, on a band from their minimum to their maximum. `is_log` makes the x axis logarithmic.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    labels = [label for label, _, _ in curves if label][:MAX_CURVES]
    wrapped = {label: textwrap.fill(label, 52) for label in labels}
    is_long = max(map(len, labels), default=0) > 23
    is_below = len(labels) > (1 if is_long else 3)  # A large legend inside would cover the curves.

    def paint(axes: Axes) -> None:
        for label, *points in curves:
            x, y = (np.array_split(values, min(len(values), MAX_POINTS)) for values in points)
            means = [[part.mean() for part in parts] for parts in (x, y)]
            style = {"label": wrapped[label]} if label in wrapped else PALE
            (line,) = axes.plot(*means, marker="o" if len(x) <= 40 else "", **style)
            if len(points[0]) > MAX_POINTS:
                ends = [part.min() for part in y], [part.max() for part in y]
                axes.fill_between(means[0], *ends, alpha=0.2, color=line.get_color())
        for mark in marks:
            axes.axvline(mark, color=INK, alpha=0.5, linestyle=":", linewidth=1)
        is_share = caption.endswith("share")
        if not is_share and 0 < 30 * min(min(y) for _, _, y in curves) < max(max(y) for _, _, y in curves):
            axes.set_yscale("log")  # The default labels, 10^-1, need mathtext.
            axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
            axes.yaxis.set_minor_formatter("")
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_formatter="")
        else:  # Steps, epochs and rounds are integers.
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}")
        axes.set_xlabel(xlabel)
        if is_below:
            axes.figure.legend(loc="outside lower center", ncols=1 if is_long else 2)
        elif len(labels) > 1:
            axes.legend()

    num_rows = len("\n".join(wrapped.values()).splitlines()) / (1 if is_long else 2)
    size = (SMALL[0], SMALL[1] + 0.2 + 0.19 * num_rows) if is_below else SMALL  # inches
    return caption, drawing(paint, f"{caption}: {', '.join(labels)}", size)


def det_chart(title: str, curves: Mapping[str, ErrorCurve]) -> Figure:
    """Draw miss against false-alarm rates per scoring, on axes where Gaussian scores give straight lines."""
    from scipy.special import ndtri

    def paint(axes: Axes) -> None:
        limits = [*ndtri([0.1, 0.3])]
        for label, curve in curves.items():
            rates = curve.p_fa, curve.p_miss
            halves = [rate[rate > 0].min() / 2 for rate in rates]  # A rate of 0 is drawn as half a trial.
            x, y = (ndtri(np.clip(rate, half, 1 - half)) for rate, half in zip(rates, halves, strict=True))
            positions = np.searchsorted(y - x, np.linspace(y[0] - x[0], y[-1] - x[-1], MAX_POINTS))
            points = np.unique(np.minimum(positions, len(x) - 1))
            (line,) = axes.plot(x[points], y[points], label=textwrap.fill(label, 34))
            for marker, threshold in (("o", curve.eer_threshold()), ("D", curve.min_dcf_threshold(P_TARGET))):
                index = np.searchsorted(curve.thresholds, threshold)
                axes.plot(x[index], y[index], marker, color=line.get_color(), markersize=5)
                limits += [x[index] - 0.2, y[index] + 0.1]
        limits = [min(limits), max(limits)]
        ticks = [rate for rate in RATES if limits[0] <= ndtri(rate / 100) <= limits[1]]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ndtri(np.divide(ticks, 100)), [f"{rate:g}" for rate in ticks])
        axes.plot(limits, limits, **PALE)
        axes.set(xlabel="false alarms, percent", ylabel="misses, percent", xlim=limits, ylim=limits)
        axes.legend(loc="upper right")

    return "Error trade-off (DET)", drawing(paint, title, LARGE)


def score_chart(title: str, scores: Floats, targets: Labels) -> Figure:
    """Draw the densities of target and nontarget scores (J,), and the thresholds of EER and minDCF."""
    curve = ErrorCurve.of(scores, targets)
    thresholds = curve.eer_threshold(), curve.min_dcf_threshold(P_TARGET)
    edges = np.histogram_bin_edges(scores, bins=int(np.clip(np.sqrt(len(scores)) / 2, 20, 80)))

    def paint(axes: Axes) -> None:
        for mask, color, label in ((~targets, "C1", "nontargets"), (targets, "C0", "targets")):
            heights, _ = np.histogram(scores[mask], edges, density=True)
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, label=label)
        peak, middle = axes.get_ylim()[1], edges.mean()
        for label, height, x in zip(("EER", "min DCF"), (1.04 * peak, 1.13 * peak), thresholds, strict=True):
            if np.isfinite(x):  # The threshold of rejecting everything is infinite.
                axes.plot([x, x], [0, height], color=INK, linewidth=0.9, linestyle="--")
                axes.text(x, height, f" {label} {x:.3g} ", va="center", ha="left" if x < middle else "right")
        axes.set(ylim=(0, 1.2 * peak), xlabel="score", ylabel="density", yticks=[])
        axes.legend(loc="center right" if min(thresholds) < middle else "center left")

    return "Scores", drawing(paint, title, LARGE)


def confusion_chart(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Draw a confusion matrix of counts (K, K), labels (rows) by predictions (columns), as shares per row."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, size = np.asarray(counts, dtype=np.float64), len(labels)
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)

    def paint(axes: Axes) -> None:
        colormap = LinearSegmentedColormap.from_list("share", ["#2f7fc100", "#2f7fc1ff"])  # transparent at 0
        axes.imshow(shares, cmap=colormap, vmin=0, vmax=1)
        for row, column in np.argwhere(rows > 0) if size <= MAX_WRITTEN else ():
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center")
        step = -(-size // MAX_NAMES)  # With more labels only every second, third ... is named.
        indices = range(0, size, step)
        axes.set_xticks(indices, labels[::step], rotation=90)
        axes.set_yticks(indices, labels[::step])
        axes.set(xlabel="predicted", ylabel="label")
        axes.grid(visible=False)

    return "Confusion", drawing(paint, title, LARGE)
