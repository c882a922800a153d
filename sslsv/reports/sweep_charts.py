"""Pictures of a sweep: learning curves by rung, the metric against each setting, parallel coordinates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from sslsv.reports.page import Html, figure, metric_title
from sslsv.reports.plots import COLORS, INK, drawing
from sslsv.search.dimensions import Choice, Dimension, When
from sslsv.search.history import Outcome, standing
from sslsv.search.sweep import Sweep

MAX_LABEL = 22  # characters of a setting below its axis


@dataclass(frozen=True)
class Scale:
    """How the values of a setting are laid out: on a line, a logarithmic one, or as categories."""

    is_logarithmic: bool
    categories: tuple[Any, ...] = ()

    @classmethod
    def of(cls, dimension: Dimension | When) -> "Scale":
        """The scale that holds all cases of a dimension."""
        cases = list(dimension.cases.values()) if isinstance(dimension, When) else [dimension]
        if all(isinstance(case, Choice) for case in cases):
            values = [value for case in cases if isinstance(case, Choice) for value in case.values]
            return cls(False, tuple(dict.fromkeys(map(_hashable, values))))
        return cls(all(not isinstance(case, Choice) and case.is_logarithmic for case in cases))

    def place(self, value: Any) -> float:
        """Where a value is, among equal steps; NaN as `number`."""
        number = self.number(value)
        return math.log10(number) if self.is_logarithmic else number

    def number(self, value: Any) -> float:
        """Where a value is on its axis; NaN, which is not drawn, for null and words beside intervals."""
        if self.categories:
            return float(self.categories.index(_hashable(value)))
        return float(value) if isinstance(value, int | float) else math.nan


def learning_curves(sweep: Sweep) -> Html:
    """The metric at every validation of every trial, in the colour of the rung that it got to."""
    metric, rungs = sweep.folder.metric, sweep.rungs

    def paint(axes: Axes) -> None:
        labelled: set[int] = set()
        for outcome in reversed(standing(sweep.folder.history)):
            records = [r for r in sweep.folder.records_of(outcome.index) if r.get(metric) is not None]
            label = None if outcome.rung in labelled else f"to epoch {rungs[outcome.rung]}"
            labelled.add(outcome.rung)
            axes.plot(
                [record["epoch"] for record in records],
                [record[metric] for record in records],
                color=_color(outcome),
                marker="o",
                markersize=3,
                linewidth=1.2,
                label=label,
            )
        for epoch in rungs[:-1]:
            axes.axvline(epoch, color=INK, alpha=0.4, linestyle=":", linewidth=1)
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric_title(metric))
        axes.legend()

    title = "Learning curves"
    remark = f"{metric_title(metric)} of each trial; dotted: rungs, at which trials are compared"
    return figure(title, drawing(paint, title, width=8.0, height=3.4), remark)


def against_setting(sweep: Sweep, key: str) -> Html:
    """The metric against one setting: hollow at the first rung, filled at the last that a trial reached."""
    metric, scale = sweep.folder.metric, Scale.of(sweep.suggester.dimensions[key])
    at_first = sweep.folder.at_rungs()[sweep.rungs[0]]

    def place_at(index: int, rung: int) -> float | None:
        settings = sweep.folder.settings_at(index, rung)
        if key not in settings:
            return None
        return scale.number(settings[key])

    def paint(axes: Axes) -> None:
        for outcome in standing(sweep.folder.history):
            x, before = place_at(outcome.index, outcome.rung), place_at(outcome.index, 0)
            if x is None or math.isnan(x):
                continue
            value, first = sweep.folder.value(outcome), at_first.get(outcome.index, {}).get(metric)
            if value is None:  # collapsed or failed
                axes.plot(x, 0.98, "x", color=INK, transform=axes.get_xaxis_transform(), clip_on=False)
                continue
            if first is not None and before is not None and outcome.rung > 0:
                axes.plot([before, x], [first, value], color=_color(outcome), linewidth=0.8, alpha=0.5)
                axes.plot(before, first, "o", color=_color(outcome), markersize=4, fillstyle="none")
            axes.plot(x, value, "o", color=_color(outcome), markersize=5)
        if scale.categories:
            axes.set_xticks(range(len(scale.categories)), [_short(c) for c in scale.categories])
            axes.margins(x=0.25)
        elif scale.is_logarithmic:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            digits = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
            axes.xaxis.set_major_locator(LogLocator(subs=digits))
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(metric_title(metric))

    return figure(key, drawing(paint, f"{metric} against {key}", width=4.2, height=2.5))


def parallel_coordinates(sweep: Sweep) -> Html:
    """One line per trial across all settings and, at the right, its place; the best three in colour."""
    keys = list(sweep.suggester.dimensions)
    scales = {key: Scale.of(dimension) for key, dimension in sweep.suggester.dimensions.items()}
    suggestions = sweep.folder.suggestions
    found = [outcome for outcome in standing(sweep.folder.history) if outcome.can_win]
    if len(found) < 2:
        return Html()
    places = {key: _unit_places(scales[key], _tried(suggestions, key)) for key in keys}

    def paint(axes: Axes) -> None:
        for place, outcome in reversed(list(enumerate(found))):
            settings = suggestions[outcome.index]
            y = [places[key](settings[key]) if key in settings else np.nan for key in keys]
            is_best = place < 3
            axes.plot(
                range(len(keys) + 1),
                [*y, 1 - place / (len(found) - 1)],
                color=COLORS[place] if is_best else INK,
                alpha=1.0 if is_best else 0.22,
                linewidth=2.0 if is_best else 1.0,
                label=f"trial {outcome.index}, number {place + 1}" if is_best else None,
            )
        axes.set_xticks(range(len(keys) + 1), [*map(_short_key, keys), "place"])
        axes.set_yticks([])
        axes.grid(True, axis="x", alpha=0.6)
        for x, key in enumerate(keys):
            low, high = _ends(scales[key], _tried(suggestions, key))
            axes.text(x, -0.03, low, ha="center", va="top", fontsize=8)
            axes.text(x, 1.03, high, ha="center", va="bottom", fontsize=8)
        axes.set_ylim(-0.14, 1.14)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))

    title = "Parallel coordinates"
    remark = "a line is a trial; each axis from the lowest to the highest value tried; the best at the top"
    return figure(title, drawing(paint, title, width=max(8.0, 1.6 * (len(keys) + 2)), height=3.2), remark)


def _unit_places(scale: Scale, values: list[Any]) -> Callable[[Any], float]:
    """From a value to 0 (lowest tried) to 1 (highest tried)."""
    tried = [place for value in values if not math.isnan(place := scale.place(value))]
    low, high = min(tried, default=0.0), max(tried, default=0.0)
    return lambda value: (scale.place(value) - low) / (high - low) if high > low else 0.5


def _tried(suggestions: Mapping[int, Mapping[str, Any]], key: str) -> list[Any]:
    return [settings[key] for settings in suggestions.values() if key in settings]


def _ends(scale: Scale, tried: list[Any]) -> tuple[str, str]:
    values = sorted((value for value in tried if not math.isnan(scale.place(value))), key=scale.place)
    return (_short(values[0]), _short(values[-1])) if values else ("", "")


def _color(outcome: Outcome) -> str:
    return COLORS[outcome.rung % len(COLORS)]


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def _short_key(key: str) -> str:
    return _short(key.rpartition(".")[2].replace("_", "\n", 1))
