"""Write the page of a task such as a probe: how well labels are predicted, and which are confused."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sslsv.reports.evaluation import counts_text, encoder_page
from sslsv.reports.page import Record, Section, interval, metric_text, metric_title
from sslsv.reports.plots import confusion_chart
from sslsv.runs.folder import here


def task_page(result: Mapping[str, Any], **of_run: Any) -> bytes:
    """Return the HTML page of a task's result, the content of its JSON file; see `evaluation_page`."""
    facts = [
        (metric_title(k), metric_text(k, m["value"]), interval(k, m)) for k, m in result["metrics"].items()
    ]
    facts.append(("baseline accuracy", f"{result['baseline_accuracy']:.4g}", "most frequent label"))
    lists = [
        {"list": role, **source["counts"], "file": here(source["file"]), "SHA-256": source["sha256"][:12]}
        for role, source in result["lists"].items()
    ]
    chart = confusion_chart("confusion of labels", result["labels"], result["confusion"])
    remark = f"Macro F1 on held-out parts of the training list; {result['strength']:g} was chosen."
    sections = [
        Section("Labels", tables={"": label_rows(result)}, figures=[chart]),
        Section("Lists", tables={"": lists}),
        Section("Regularisation", remark, pairs=result["macro_f1_of_strengths"]),
    ]
    return encoder_page(result["task"].capitalize(), result, sections, facts=facts, **of_run)


def label_rows(result: Mapping[str, Any]) -> list[Record]:
    """Return a row per label: the number of test recordings, recall, precision and F1."""
    counts = np.asarray(result["confusion"])
    correct, actual, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return [
        {
            "label": label,
            "recordings": int(actual[i]),
            "recall": float(correct[i] / actual[i]) if actual[i] else None,
            "precision": float(correct[i] / predicted[i]) if predicted[i] else None,
            "F1": float(2 * correct[i] / (actual[i] + predicted[i])) if actual[i] + predicted[i] else None,
        }
        for i, label in enumerate(result["labels"])
    ]


def task_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result as lines for the terminal."""
    for role, source in result["lists"].items():
        yield f"{role}: {source['file']}, {counts_text(source['counts'])}"
    for key, metric in result["metrics"].items():
        ends = interval(key, metric)
        yield f"  {key:<20}{metric_text(key, metric['value'])}{f' ({ends})' if ends else ''}"
    yield f"  {'baseline_accuracy':<20}{result['baseline_accuracy']:.4g}"
    yield from (f"note: {note}" for note in result["notes"])
