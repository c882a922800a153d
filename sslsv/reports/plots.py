"""Drawing for reports: pictures as SVG that takes its ink from the page, and curves over training steps."""

import html
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter
from numpy.typing import ArrayLike, NDArray

from sslsv.reports.page import Html, figure

Floats = NDArray[np.float64]
Curve = tuple[Sequence[float], Sequence[float]]  # steps (N,), values (N,)

# Of middle lightness: at least 3 : 1 against white and against the dark page.
COLORS = ("#2f7fc1", "#d1651c", "#2f9467", "#b9589a", "#8a6fc9", "#a27e14", "#2a909c", "#c2544f")
DASHES = ("-", "--", ":", "-.")
INK = "#010203"  # stands for the page's colour of text, which depends on light and dark
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and in the page's font
    "text.parse_math": False,  # a $ in a file name is a $
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; only the widths of letters matter
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "savefig.transparent": True,
    **{key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "grid.color")},
    **{key: INK for key in ("xtick.color", "ytick.color")},
}
MAX_POINTS = 300  # of a curve: more can't be told apart
RASTER_DPI = 170  # of what is drawn as pixels: sharp on a phone, 100 kB at most


class PlainLogFormatter(LogFormatter):
    """Labels 0.1, 1, 10 where the default needs mathtext, 10^-1; it chooses which ticks get one."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick at x, or nothing."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def drawing(paint: Callable[[Axes], Any], title: str, *, width: float = 4.6, height: float = 2.6) -> Html:
    """What `paint` draws, as an SVG of `width` x `height` inches that scales with the page.

    `title` is for readers who can't see it, and keeps the ids of a page's pictures apart.
    """
    stream = StringIO()
    with mpl.rc_context({**LOOK, "svg.hashsalt": title}), warnings.catch_warnings():
        # Names in scripts that this font lacks are drawn by the browser's.
        warnings.filterwarnings("ignore", "Glyph")
        picture = Figure(figsize=(width, height), layout="constrained", dpi=RASTER_DPI)
        paint(picture.add_subplot())
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        picture.savefig(stream, format="svg", metadata=no_metadata)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' (xmlns(:\w+)?|id)="(http[^"]*|[\w.]+_\d+)"', "", svg)  # HTML needs no namespaces
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return Html(svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1))


def step_chart(
    title: str,
    curves: Mapping[str, Curve],
    *,
    remark: str = "",
    is_logarithmic: bool = False,
    best_step: int | None = None,
) -> Html:
    """A figure of curves over training steps; a dotted line at `best_step`.

    A curve of too many points is shown as the means of consecutive ones, on a band from the lowest to the
    highest of them.
    """

    def paint(axes: Axes) -> None:
        for index, (label, (steps, values)) in enumerate(curves.items()):
            color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
            x, mean, low, high = thinned(steps, values)
            if len(values) > len(x):
                axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
            marker = "o" if len(x) <= 40 else ""
            axes.plot(x, mean, dash, label=label, color=color, marker=marker, markersize=3, linewidth=1.3)
        if best_step is not None:
            axes.axvline(best_step, color=INK, alpha=0.5, linestyle=":", linewidth=1)
        if is_logarithmic and any(np.max(values) > 0 for _, values in curves.values()):
            axes.set_yscale("log", nonpositive="mask")
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(PlainLogFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k
        axes.set_xlabel("step")
        if len(curves) > 1:
            axes.legend()

    return figure(title, drawing(paint, title), remark)


def thinned(steps: ArrayLike, values: ArrayLike, most: int = MAX_POINTS) -> tuple[Floats, ...]:
    """At most `most` points of a curve (N,): step, mean, lowest and highest value of consecutive points."""
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(y) <= most:
        return x, y, y, y
    starts = np.linspace(0, len(y), most + 1).astype(np.int64)[:-1]
    counts = np.diff(starts, append=len(y))
    means = [np.add.reduceat(part, starts) / counts for part in (x, y)]
    return *means, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
