"""Write the page of an evaluation: metrics with intervals, curves and the hardest trials."""

from collections.abc import Iterator, Mapping, Sequence
from posixpath import basename
from typing import Any

import numpy as np

from sslsv.evaluation.metrics import ErrorCurve, Floats, Labels
from sslsv.evaluation.scorer import CALIBRATED
from sslsv.evaluation.trials import TrialList
from sslsv.reports.page import Record, Section, duration, interval, metric_text, metric_title, render
from sslsv.reports.plots import det_chart, score_chart
from sslsv.runs.folder import here

WORST = 10  # trials of each kind


def evaluation_page(evaluation: Mapping[str, Any], lists: Sequence[TrialList], **of_run: Any) -> bytes:
    """Return the HTML page of an evaluation; `of_run` is the result of `training.of_run`."""
    eers = {item.name: item.summary["scorings"][next(iter(item.scores))]["eer"] for item in lists}
    facts = [(f"EER, {name}", metric_text("eer", m["value"]), interval("eer", m)) for name, m in eers.items()]
    notes = [*evaluation["warnings"]]
    notes += ["Labels were used to score these trials."] * evaluation["labels_were_used"]["scoring"]
    sections = [list_section(item) for item in lists]
    return encoder_page("Evaluation", evaluation, sections, facts=facts, notes=notes, **of_run)


def encoder_page(
    kind: str,
    result: Mapping[str, Any],
    sections: Sequence[Section],
    trained: Mapping[str, Any] | None = None,
    **parts: Any,
) -> bytes:
    """Return the HTML page of a result of a trained encoder: `sections`, `parts`, and what all pages show."""
    run, checkpoint = here(result["run"]), result["checkpoint"]
    settings = Section("Settings", text=result["settings"])
    environment = Section("Environment", pairs=result["environment"])
    return render(
        f"{kind} of {basename(result['run'].rstrip('/'))}",
        [*sections, settings, environment],
        head={"run": run, "checkpoint": checkpoint["files"], "step": checkpoint["steps"], **(trained or {})},
        sentences=[*result["notes"], f"It took {duration(result['seconds'])}."],
        **parts,
    )


def list_section(item: TrialList) -> Section:
    """Return the section of one list; scores and hardest trials are those of its first scoring."""
    trials, paths, titles = item.trials, item.trials.paths, item.summary["titles"]
    first, scores = next(iter(item.scores.items()))
    curves = {
        titles[name]: ErrorCurve.of(values, trials.targets)
        for name, values in item.scores.items()
        if not name.endswith(CALIBRATED)  # Calibration keeps the order of scores and so the curve.
    }

    def hardest(mask: Labels, sort_keys: Floats) -> list[Record]:
        rows = np.flatnonzero(mask)
        return [
            {"score": f"{scores[j]:.4f}", "enrolment": paths[trials.enrol[j]], "test": paths[trials.test[j]]}
            for j in rows[np.argsort(sort_keys[rows], kind="stable")[:WORST]]
        ]

    remark = f"Scores and trials below are those of {titles[first]}."
    return Section(
        item.name,
        f"{counts_text(item.summary['counts'])}. {remark}",
        {
            "": metric_rows(item),
            "Hardest target trials: one speaker, low score": hardest(trials.targets, scores),
            "Hardest nontarget trials: two speakers, high score": hardest(~trials.targets, -scores),
        },
        [
            det_chart(f"DET, {item.name}", curves),
            score_chart(f"scores, {item.name}", scores, trials.targets),
        ],
        {"list": here(item.summary["file"]), "SHA-256 of the list": item.summary["sha256"]},
    )


def metric_rows(item: TrialList) -> list[Record]:
    """Return a row per metric and a column per scoring, with the interval below each value.

    Calibration keeps the order of scores, so only metrics that it changes have an additional row.
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
    """Return the counts of a list as text: `12 trials, 1 skipped trials`."""
    return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.items())
