"""Write the page of an evaluation: every metric with its interval, curves, and where the errors come from."""

from collections.abc import Iterator, Mapping, Sequence
from posixpath import basename, normpath
from typing import Any

import numpy as np

from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scorer import CALIBRATED
from sslsv.evaluation.trials import ScoredList
from sslsv.reports.page import Link, Record, Section, duration, interval, metric_text, metric_title, render
from sslsv.reports.plots import Floats, det_chart, map_chart, score_chart
from sslsv.runs.folder import here

WORST = 10  # trials of each kind
P_TARGET = 0.01  # The figures mark the lowest detection cost at this prior.


def evaluation_page(
    evaluation: Mapping[str, Any],
    lists: Sequence[ScoredList],
    trained: Mapping[str, Any] | None = None,
    links: Sequence[Link] = (),
) -> str:
    """Return the HTML of an evaluation: the content of evaluation.json, and the lists it was made of.

    `trained` says what was trained, as `reports.training.origin` tells it.
    """
    run, seconds = normpath(evaluation.get("run", "")), evaluation.get("seconds", 0.0)
    eers = {item.name: item.summary["scorings"][next(iter(item.scores))]["eer"] for item in lists}
    facts = [(f"EER, {name}", metric_text("eer", m["value"]), interval("eer", m)) for name, m in eers.items()]
    of = evaluation.get("checkpoint", {})
    head = {"run": here(run), "checkpoint": of.get("files"), "step": of.get("steps"), **(trained or {})}
    sections = [
        *map(list_section, lists),
        Section("Settings", text=evaluation.get("settings", "")),
        Section("Environment", pairs=evaluation.get("environment", {})),
    ]
    sentences = [*evaluation.get("notes", []), f"It took {duration(seconds)}."]
    is_labelled = evaluation.get("labels_were_used", {}).get("scoring")
    notes = [*evaluation.get("warnings", [])]
    notes += ["Labels were used to score these trials."] * bool(is_labelled)
    parts = {"sentences": sentences, "notes": notes, "facts": facts, "head": head, "links": links}
    return render(f"Evaluation of {basename(run)}", sections, **parts).decode()


def list_section(item: ScoredList) -> Section:
    """Return all that is known of one list; errors are those of its first scoring."""
    trials, paths, (first, scores) = item.trials, item.trials.paths, next(iter(item.scores.items()))
    enrol, test = trials.enrol, trials.test
    rates: dict[str, tuple[Floats, Floats]] = {}
    marks: dict[str, list[int]] = {}
    thresholds: list[float] = []
    for name, values in item.scores.items():
        if name.removesuffix(CALIBRATED) not in item.scores.keys() - {name}:  # Calibration keeps the order.
            curve, title = ErrorCurve.of(values, trials.targets), title_of(item, name)
            costs = P_TARGET * curve.p_miss + (1 - P_TARGET) * curve.p_fa
            rates[title] = curve.p_fa, curve.p_miss
            marks[title] = [int(np.abs(curve.p_fa - curve.p_miss).argmin()), int(costs.argmin())]
            thresholds = thresholds or curve.thresholds[marks[title]].tolist()
    same, different = np.flatnonzero(trials.targets), np.flatnonzero(~trials.targets)
    lowest = same[np.argsort(scores[same], kind="stable")[:WORST]]
    highest = different[np.argsort(-scores[different], kind="stable")[:WORST]]
    hardest = [
        [{"score": f"{scores[j]:.4f}", "enrolment": paths[enrol[j]], "test": paths[test[j]]} for j in found]
        for found in (lowest, highest)
    ]
    file, digest = here(item.summary.get("file", "")), item.summary.get("sha256", "")
    return Section(
        item.name,
        f"{counts_text(item)}. Scores and trials below are those of {title_of(item, first)}.",
        {"": metric_rows(item)},
        [
            det_chart(f"DET, {item.name}", rates, marks),
            score_chart(f"scores, {item.name}", scores, trials.targets, thresholds),
            *map_chart(f"embeddings, {item.name}", item.embeddings, item.speakers),
        ],
        {
            "Hardest target trials: one speaker, low score": hardest[0],
            "Hardest nontarget trials: two speakers, high score": hardest[1],
        },
        {"list": file, "SHA-256 of the list": digest},
    )


def title_of(item: ScoredList, name: str) -> str:
    """Return the name of a scoring for readers."""
    return str(item.summary.get("titles", {}).get(name, name))


def metric_rows(item: ScoredList) -> list[Record]:
    """Return a row per metric and a column per scoring, with the interval below each value.

    Calibration keeps the order of scores: only the metrics that it changes have a row.
    """
    scorings, rows = item.summary["scorings"], dict[str, Record]()
    for name, metrics in scorings.items():
        base = name.removesuffix(CALIBRATED)
        plain = scorings.get(base, {}) if base != name else {}
        for key, metric in metrics.items():
            if key not in plain or plain[key]["value"] != metric["value"]:
                title = metric_title(key) + ", calibrated" * (base != name)
                text = f"{metric_text(key, metric['value'])}\n{interval(key, metric)}"
                rows.setdefault(title, {"metric": title})[title_of(item, base)] = text
    return list(rows.values())


def terminal_lines(item: ScoredList) -> Iterator[str]:
    """Yield the lines of a list's table for the terminal."""
    yield f"{item.name}: {counts_text(item)}"
    rows = metric_rows(item)
    for title in dict.fromkeys(title for row in rows for title in row if title != "metric"):
        yield f"  {title}"
        for row in rows:
            if title in row:
                value, ends = row[title].split("\n")
                yield f"    {row['metric']:<36}{value}{f' ({ends})' if ends else ''}"


def counts_text(item: ScoredList) -> str:
    """Write how many trials, recordings and speakers a list has, and what was odd in it."""
    return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in item.summary["counts"].items())
