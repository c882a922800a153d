"""Pictures of scored trials: error trade-off, scores, speakers, embeddings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from sslsv.evaluation.error_analysis import SpeakerErrors
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.reports.page import Html, figure
from sslsv.reports.plots import COLORS, DASHES, INK, MAX_POINTS, drawing

Floats = NDArray[np.float64]

P_TARGET = 0.01  # of the minDCF that is marked
RATES = (0.001, 0.01, 0.1, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 99)  # percent, on the axes of a DET plot
LARGE = {"width": 5.2, "height": 4.4}  # inches
MANY = 300  # dots are drawn as pixels from here on: each would be an element of the page
MARKERS = "osD^v"
MAP_EMBEDDINGS, MAP_SPEAKERS = 1500, 40  # t-SNE takes seconds; more colours and marks can't be told apart
MAP_MIN = 50  # embeddings that t-SNE needs to make sense
MAP_MIN_SPREAD = 1e-5  # of unit vectors: what is below may be rounding errors of a collapsed model


@dataclass(frozen=True)
class ErrorTradeOff:
    """What a report keeps of a scoring's error curve: some points, and the operating points."""

    p_fa: Floats  # (M,), M of at most a few hundred
    p_miss: Floats  # (M,)
    eer: float  # 0 to 1
    eer_threshold: float
    cheapest: tuple[float, float]  # false-alarm and miss rate where the detection cost is lowest
    cheapest_threshold: float  # may be infinite: reject everything

    @classmethod
    def of(cls, scores: ArrayLike, targets: ArrayLike) -> "ErrorTradeOff":
        """Points at even distances on the curve as it is drawn; rates of 0 are half a trial."""
        curve = ErrorCurve.of(scores, targets)
        p_fa, p_miss = (
            np.clip(counts / counts.max(), 0.5 / counts.max(), 1 - 0.5 / counts.max())
            for counts in (curve.false_alarms, curve.misses)
        )
        along = ndtri(p_miss) - ndtri(p_fa)
        kept = np.searchsorted(along, np.linspace(along[0], along[-1], MAX_POINTS))
        kept = np.unique(np.minimum(kept, len(along) - 1))
        threshold = curve.min_dcf_threshold(P_TARGET)
        cheapest = int(np.searchsorted(curve.thresholds, threshold))
        return cls(
            p_fa[kept],
            p_miss[kept],
            curve.eer() / 100,
            curve.eer_threshold(),
            (float(p_fa[cheapest]), float(p_miss[cheapest])),
            threshold,
        )

    def is_same_curve(self, other: "ErrorTradeOff") -> bool:
        """Whether both were made of scores in the same order."""
        return np.array_equal(self.p_fa, other.p_fa) and np.array_equal(self.p_miss, other.p_miss)


def det_plot(list_name: str, trade_offs: dict[str, ErrorTradeOff]) -> Html:
    """Miss over false-alarm rate of every scoring, on axes where Gaussian scores give straight lines."""
    lines: list[tuple[str, ErrorTradeOff]] = []
    for name, new in trade_offs.items():
        name = re.sub(r"\(.*?\)", "", name)  # its parameters are in the table
        same = [i for i, (_, known) in enumerate(lines) if known.is_same_curve(new)]
        if same:  # a calibration changes no order
            lines[same[0]] = (f"{lines[same[0]][0]}\n{name}", lines[same[0]][1])
        else:
            lines.append((name, new))

    def paint(axes: Axes) -> None:
        rates = []
        for index, (name, line) in enumerate(lines):
            color, dash = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
            axes.plot(ndtri(line.p_fa), ndtri(line.p_miss), dash, color=color, linewidth=1.4, label=name)
            equal = float(np.clip(line.eer, 1e-6, 1 - 1e-6))
            axes.plot(ndtri(equal), ndtri(equal), "o", color=color, markersize=5)
            axes.plot(*ndtri(line.cheapest), "D", color=color, markersize=5)
            rates += [equal / 20, min(equal * 4, 0.9), line.cheapest[0] / 2, line.cheapest[1]]
        low, high = float(ndtri(max(min(rates), 1e-6))), float(ndtri(min(max(*rates, 0.3), 0.995))) + 0.1
        ticks = [rate for rate in RATES if low <= ndtri(rate / 100) <= high]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ndtri(np.divide(ticks, 100)), [f"{rate:g}" for rate in ticks])
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="false alarms, percent", ylabel="misses, percent")
        axes.plot([low, high], [low, high], color=INK, alpha=0.2, linewidth=0.8)
        axes.legend(loc="lower left" if high > 0 else "upper right")

    remark = "dot: EER, diamond: minDCF of p_target 0.01"
    return figure("Error trade-off (DET)", drawing(paint, f"DET, {list_name}", **LARGE), remark)


def score_plot(list_name: str, scores: ArrayLike, targets: ArrayLike, trade_off: ErrorTradeOff) -> Html:
    """Distributions of target and nontarget scores, each of area 1, and the thresholds."""
    values, is_target = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.bool_)
    edges = np.histogram_bin_edges(values, bins=int(np.clip(np.sqrt(len(values)) / 2, 20, 80)))

    def paint(axes: Axes) -> None:
        for kind, color, label in ((~is_target, COLORS[1], "nontargets"), (is_target, COLORS[0], "targets")):
            heights, _ = np.histogram(values[kind], edges, density=True)
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, label=label)
        top = axes.get_ylim()[1]
        for share, threshold, label in (
            (1.04, trade_off.eer_threshold, "EER"),
            (1.13, trade_off.cheapest_threshold, "minDCF"),
        ):
            if np.isfinite(threshold):
                axes.plot([threshold, threshold], [0, share * top], color=INK, linewidth=0.9, linestyle="--")
                side = "left" if threshold < edges.mean() else "right"
                axes.text(threshold, share * top, f" {label} {threshold:.3g} ", va="center", ha=side)
        axes.set(ylim=(0, 1.2 * top), xlabel="score", ylabel="density")
        axes.set_yticks([])
        axes.legend(loc="center left" if trade_off.eer_threshold > edges.mean() else "center right")

    remark = "dashed: the thresholds of the marked points"
    return figure("Scores", drawing(paint, f"scores, {list_name}", **LARGE), remark)


def speaker_plot(list_name: str, errors: SpeakerErrors, names: Sequence[str], worst: Sequence[int]) -> Html:
    """A dot per speaker: how often it is missed, how often it is taken for another."""
    x, y = 100 * errors.false_alarm_rates, 100 * errors.miss_rates

    def paint(axes: Axes) -> None:
        axes.scatter(
            x,
            y,
            s=16,
            color=COLORS[0],
            alpha=0.5 if len(names) > MANY else 0.85,
            linewidth=0,
            rasterized=len(names) > MANY,
        )
        for speaker in worst:
            if np.isfinite(x[speaker] + y[speaker]):
                place = (x[speaker], y[speaker])
                axes.annotate(names[speaker], place, (3, 3), textcoords="offset points", fontsize=8)
        axes.axvline(
            100 * errors.false_alarms.sum() / errors.nontargets.sum(), color=INK, alpha=0.35, linewidth=0.9
        )
        axes.axhline(100 * errors.misses.sum() / errors.targets.sum(), color=INK, alpha=0.35, linewidth=0.9)
        axes.set(xlabel="falsely accepted, percent of trials", ylabel="missed, percent of trials")

    remark = "a dot is a speaker; lines: all trials, at the EER threshold"
    return figure("Errors per speaker", drawing(paint, f"speakers, {list_name}", **LARGE), remark)


def embedding_map(embeddings: ArrayLike, speakers: NDArray[np.int64], names: Sequence[str]) -> Html | None:
    """Embeddings (R, D) in the plane, in the colours of their speakers; None of fewer than 3.

    t-SNE of unit vectors, seeded; of few embeddings the first two principal components.
    """
    chosen = _some_of_each(speakers)
    if len(chosen) < 3:
        return None
    rows = np.asarray(embeddings, dtype=np.float64)[chosen]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    # Fewer dimensions first: distances cost less, and what is cut off is noise.
    places = PCA(min(*rows.shape, 50), random_state=0).fit_transform(rows)
    # scikit-learn's t-SNE ends the process, by a segmentation fault, where there is no spread to start from.
    is_nonlinear = len(rows) >= MAP_MIN and places.std(axis=0).max() > MAP_MIN_SPREAD
    if is_nonlinear:
        tsne = TSNE(perplexity=min(30, len(rows) / 4), max_iter=500, init="pca", random_state=0)
        places = tsne.fit_transform(places)
    places = np.pad(places, ((0, 0), (0, 1)))[:, :2]  # embeddings of one dimension
    shown = np.unique(speakers[chosen])

    def paint(axes: Axes) -> None:
        for index, speaker in enumerate(shown.tolist()):
            x, y = places[speakers[chosen] == speaker].T
            color, marker = COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]
            axes.scatter(x, y, s=9, color=color, marker=marker, alpha=0.75, linewidth=0, rasterized=True)
            axes.text(np.median(x), np.median(y), names[speaker], fontsize=7, ha="center", va="center")
        axes.set_axis_off()

    method = "t-SNE" if is_nonlinear else "principal components"
    remark = f"{method} of {len(chosen):,} recordings of {len(shown)} speakers; names are at the medians"
    return figure("Embeddings", drawing(paint, "map of embeddings", **LARGE), remark)


def _some_of_each(speakers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Recordings for the map: as many of each speaker, of those with two at least if there are such."""
    generator = np.random.default_rng(0)
    counts = np.bincount(speakers)
    candidates = np.flatnonzero(counts >= min(2, counts.max(initial=0)))
    several = generator.permutation(candidates)[:MAP_SPEAKERS]
    share = MAP_EMBEDDINGS // max(len(several), 1)
    parts = [generator.permutation(np.flatnonzero(speakers == speaker))[:share] for speaker in several]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
