"""Write the page of an evaluation: every metric with its interval, curves, and where the errors come from."""

from collections.abc import Iterator, Mapping, Sequence
from posixpath import basename
from typing import Any

import numpy as np

from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.trials import ScoredList
from sslsv.reports.page import Record, Section, duration, metric_text, metric_title, render
from sslsv.reports.plots import Floats, det_chart, score_chart

WORST = 10  # trials of each kind
P_TARGET = 0.01  # The figures mark the lowest detection cost at this prior.
CALIBRATED = "_calibrated"


def evaluation_page(evaluation: Mapping[str, Any], lists: Sequence[ScoredList]) -> str:
    """Return the HTML of an evaluation: the content of evaluation.json, and the lists it was made of."""
    run, seconds = str(evaluation.get("run", "")).rstrip("/"), evaluation.get("seconds", 0.0)
    eers = {item.name: item.summary["scorings"][next(iter(item.scores))]["eer"] for item in lists}
    facts = [(f"EER, {name}", metric_text("eer", m["value"]), interval("eer", m)) for name, m in eers.items()]
    sections = [
        *map(list_section, lists),
        Section("Checkpoint", pairs={"run": run, **evaluation.get("checkpoint", {})}),
        Section("Settings", text=evaluation.get("settings", "")),
        Section("Environment", pairs=evaluation.get("environment", {})),
    ]
    sentences = [*evaluation.get("notes", []), f"It took {duration(seconds)}."]
    is_labelled = evaluation.get("labels_were_used", {}).get("scoring")
    notes = [*evaluation.get("warnings", [])]
    notes += ["Labels were used to score these trials."] * bool(is_labelled)
    title = f"Evaluation of {basename(run)}"
    return render(title, sections, sentences=sentences, notes=notes, facts=facts).decode()


def list_section(item: ScoredList) -> Section:
    """Return all that is known of one list; errors are those of its first scoring."""
    trials, paths, (first, scores) = item.trials, item.trials.paths, next(iter(item.scores.items()))
    enrol, test = trials.enrol, trials.test
    rates: dict[str, tuple[Floats, Floats]] = {}
    marks: dict[str, list[int]] = {}
    thresholds: list[float] = []
    for name, values in item.scores.items():
        if name.removesuffix(CALIBRATED) not in item.scores.keys() - {name}:  # Calibration keeps the order.
            curve = ErrorCurve.of(values, trials.targets)
            costs = P_TARGET * curve.p_miss + (1 - P_TARGET) * curve.p_fa
            rates[name] = curve.p_fa, curve.p_miss
            marks[name] = [int(np.abs(curve.p_fa - curve.p_miss).argmin()), int(costs.argmin())]
            thresholds = thresholds or curve.thresholds[marks[name]].tolist()
    same, different = np.flatnonzero(trials.targets), np.flatnonzero(~trials.targets)
    lowest = same[np.argsort(scores[same], kind="stable")[:WORST]]
    highest = different[np.argsort(-scores[different], kind="stable")[:WORST]]
    hardest = [
        [{"score": f"{scores[j]:.4f}", "enrolment": paths[enrol[j]], "test": paths[test[j]]} for j in found]
        for found in (lowest, highest)
    ]
    origin = ", ".join(f"{key} {item.summary[key]}" for key in ("file", "sha256") if key in item.summary)
    return Section(
        item.name,
        f"{counts_text(item)}, {origin}. Scores and trials below are those of {first}.",
        {"": metric_rows(item.summary["scorings"])},
        [
            det_chart(f"DET, {item.name}", rates, marks),
            score_chart(f"scores, {item.name}", scores, trials.targets, thresholds),
        ],
        {
            "Hardest target trials: one speaker, low score": hardest[0],
            "Hardest nontarget trials: two speakers, high score": hardest[1],
        },
    )


def metric_rows(scorings: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Record]:
    """Return a row per metric and a column per scoring, with the interval below each value."""
    rows = {key: {"metric": metric_title(key)} for metrics in scorings.values() for key in metrics}
    for name, metrics in scorings.items():
        for key, metric in metrics.items():
            rows[key][name] = f"{metric_text(key, metric['value'])}\n{interval(key, metric)}"
    return list(rows.values())


def terminal_lines(item: ScoredList) -> Iterator[str]:
    """Yield the lines of a list's table for the terminal."""
    yield f"{item.name}: {counts_text(item)}"
    for scoring, metrics in item.summary["scorings"].items():
        yield f"  {scoring}"
        for key, metric in metrics.items():
            ends = interval(key, metric)
            yield f"    {key:<40}{metric_text(key, metric['value'])}{f' ({ends})' if ends else ''}"


def counts_text(item: ScoredList) -> str:
    """Write how many trials, recordings and speakers a list has, and what was odd in it."""
    return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in item.summary["counts"].items())


def interval(key: str, metric: Mapping[str, float]) -> str:
    """Write an interval, `11.02 to 17.13`, or nothing where there is none."""
    return " to ".join(metric_text(key, metric[end], unit="") for end in ("low", "high") if end in metric)
