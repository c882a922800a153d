import numpy as np
import pytest

from sslsv.reports.task import label_rows, task_lines, task_page

RESULT = {
    "task": "probe",
    "run": "/runs/vicreg",
    "checkpoint": {"files": ["step_00001170-0123.pt"], "steps": [1170]},
    "lists": {
        role: {"file": f"/corpora/{role}", "sha256": "0123abcd", "counts": {"recordings": 9}}
        for role in ("train", "test")
    },
    "metrics": {"accuracy": {"value": 0.75, "low": 0.5, "high": 0.875}, "macro_f1": {"value": 0.7}},
    "baseline_accuracy": 0.5,
    "strength": 0.1,
    "macro_f1_of_strengths": {"0.1": 0.8, "1": 0.6},
    "labels": ["calm", "loud", "never"],
    "confusion": [[3, 1, 0], [1, 3, 0], [0, 0, 0]],
    "notes": ["Labels were used to fit the probe."],
    "settings": "seed: 1\n",
    "environment": {"torch": "2.99"},
    "seconds": 83.0,
}


def test_task_page__shows_metrics_confusion_and_what_was_done():
    page = task_page(RESULT).decode()
    for text in ("0.75", "0.5 to 0.875", "macro F1", "Probe of vicreg", "Labels were used", "/corpora/test"):
        assert text in page, text
    assert page.count("<svg") == 1 and ">75<" in page.replace(" ", "").replace("\n", "")


def test_task_page__many_labels_are_drawn_without_numbers():
    labels, counts = [f"language{i}" for i in range(107)], np.eye(107, dtype=int).tolist()
    page = task_page({**RESULT, "labels": labels, "confusion": counts}).decode()
    assert "<svg" in page and len(page) < 200_000


def test_label_rows__recall_precision_and_f1():
    rows = label_rows({**RESULT, "confusion": [[3, 1, 0], [0, 2, 0], [0, 0, 0]]})
    assert list(rows[0].values()) == ["calm", 4, 0.75, 1.0, pytest.approx(6 / 7)]
    assert rows[2] == {"label": "never", "recordings": 0, "recall": None, "precision": None, "F1": None}


def test_task_lines__tell_values_with_their_intervals():
    text = "\n".join(task_lines(RESULT))
    assert "accuracy            0.75 (0.5 to 0.875)" in text and "note: Labels were used" in text
