"""Write the page of an evaluation: every metric with its interval, curves, and where the errors come from."""

from collections.abc import Iterator, Mapping, Sequence
from posixpath import basename
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scorer import CALIBRATED
from sslsv.evaluation.trials import TrialList
from sslsv.reports.page import Link, Record, Section, duration, interval, metric_text, metric_title, render
from sslsv.reports.plots import Floats, det_chart, score_chart
from sslsv.runs.folder import here

WORST = 10  # trials of each kind
P_TARGET = 0.01  # The figures mark the lowest detection cost at this prior.


def evaluation_page(evaluation: Mapping[str, Any], lists: Sequence[TrialList], **of_run: Any) -> bytes:
    """Return the HTML of an evaluation: the content of evaluation.json, and the lists it was made of.

    `of_run` says what was trained, as `reports.training.of_run` tells it.
    """
    eers = {item.name: item.summary["scorings"][next(iter(item.scores))]["eer"] for item in lists}
    facts = [(f"EER, {name}", metric_text("eer", m["value"]), interval("eer", m)) for name, m in eers.items()]
    notes = [*evaluation["warnings"]]
    notes += ["Labels were used to score these trials."] * evaluation["labels_were_used"]["scoring"]
    parts = of_encoder(evaluation, [list_section(item) for item in lists], **of_run)
    run = basename(evaluation["run"].rstrip("/"))
    return render(f"Evaluation of {run}", notes=notes, facts=facts, **parts)


def of_encoder(
    result: Mapping[str, Any],
    sections: Sequence[Section],
    trained: Mapping[str, Any] | None = None,
    links: Sequence[Link] = (),
) -> dict[str, Any]:
    """Return parts of a page that all results of a trained encoder share, around their own sections."""
    which, of = here(result["run"]), result["checkpoint"]
    closing = [
        Section("Settings", text=result["settings"]),
        Section("Environment", pairs=result["environment"]),
    ]
    return {
        "head": {"run": which, "checkpoint": of["files"], "step": of["steps"], **(trained or {})},
        "links": links,
        "sentences": [*result["notes"], f"It took {duration(result['seconds'])}."],
        "sections": [*sections, *closing],
    }


def list_section(item: TrialList) -> Section:
    """Return all that is known of one list; errors are those of its first scoring."""
    trials, paths, (first, scores) = item.trials, item.trials.paths, next(iter(item.scores.items()))
    rates: dict[str, tuple[Floats, Floats]] = {}
    marks: dict[str, list[int]] = {}
    thresholds: list[float] = []
    for name, values in item.scores.items():
        if not name.endswith(CALIBRATED):  # Calibration keeps the order, and with it the curve.
            curve, title = ErrorCurve.of(values, trials.targets), item.summary["titles"][name]
            costs = P_TARGET * curve.p_miss + (1 - P_TARGET) * curve.p_fa
            rates[title] = curve.p_fa, curve.p_miss
            marks[title] = [int(np.abs(curve.p_fa - curve.p_miss).argmin()), int(costs.argmin())]
            thresholds = thresholds or curve.thresholds[marks[title]].tolist()

    def hardest(kind: NDArray[np.bool_], order: Floats) -> list[Record]:
        rows = np.flatnonzero(kind)
        return [
            {"score": f"{scores[j]:.4f}", "enrolment": paths[trials.enrol[j]], "test": paths[trials.test[j]]}
            for j in rows[np.argsort(order[rows], kind="stable")[:WORST]]
        ]

    shown = f"Scores and trials below are those of {item.summary['titles'][first]}."
    return Section(
        item.name,
        f"{counts_text(item.summary['counts'])}. {shown}",
        {
            "": metric_rows(item),
            "Hardest target trials: one speaker, low score": hardest(trials.targets, scores),
            "Hardest nontarget trials: two speakers, high score": hardest(~trials.targets, -scores),
        },
        [
            det_chart(f"DET, {item.name}", rates, marks),
            score_chart(f"scores, {item.name}", scores, trials.targets, thresholds),
        ],
        {"list": here(item.summary["file"]), "SHA-256 of the list": item.summary["sha256"]},
    )


def metric_rows(item: TrialList) -> list[Record]:
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
                rows.setdefault(title, {"metric": title})[item.summary["titles"][base]] = text
    return list(rows.values())


def terminal_lines(item: TrialList) -> Iterator[str]:
    """Yield the lines of a list's table for the terminal."""
    yield f"{item.name}: {counts_text(item.summary['counts'])}"
    rows = metric_rows(item)
    for title in dict.fromkeys(title for row in rows for title in row if title != "metric"):
        yield f"  {title}"
        for row in rows:
            if title in row:
                value, ends = row[title].split("\n")
                yield f"    {row['metric']:<36}{value}{f' ({ends})' if ends else ''}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Write what a list has and what was left out of it: `12 trials, 1 skipped trials`."""
    return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.items())
