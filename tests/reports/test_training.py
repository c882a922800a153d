import json
import re
import subprocess
import sys

import pytest

from sslsv.config import Config, EvaluationConfig, to_yaml
from sslsv.reports.training import best_and_last, write_report
from sslsv.runs.folder import RunFolder

EVIL = "<img src=x onerror=alert(1)>.wav"
SPEED = {"samples_per_second": 10.0, "data_wait_share": 0.25, "seconds": 60.0, "seconds_left": 5.0}
RECORDS = [
    {"step": 10, "epoch": 1.0, "loss": 4.0, "covariance": 0.5, "learning_rate": 0.1, "eer": 40.0, **SPEED},
    {
        **{"step": 20, "epoch": 2.0, "loss": 3.0, "covariance": 0.4, "gradient_norm": None, "eer": 30.0},
        **{"min_dcf": 0.95, "test/other/eer": 25.0, "label_free/lidar": 7.0, "effective_rank": 12.0},
        **{"has_collapsed": True, "notice": "It has collapsed.", "total_steps": 20},
        **{"skipped": {"utterances": {EVIL: "it is empty"}, "bank_files": {}}},
    },
]
SUMMARY = {
    "is_finished": True,
    "stop_reason": "It has collapsed.",
    "last": {"step": 20, "test/trials/eer": 21.5, "test/trials/min_dcf": 0.9},
    "best": {"step": 10, "criterion": "eer", "value": 40.0, "test/trials/eer": 19.25},
    "trial_sets": {"trials": {"trials": 4000}},
    "skipped": {"bank_files": {"hum.wav": "it has no sound"}},
    "environment": {"torch": "2.99"},
}


def page_of(tmp_path, records=(), summary=None, config=b"seed: 1\n", name="run"):
    folder = RunFolder(str(tmp_path), name)
    folder.write("config.yml", config)
    folder.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    if summary is not None:
        folder.write_json("summary.json", summary)
    write_report(folder)
    return folder.read("report.html").decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("runs"), RECORDS, SUMMARY)


def rows_of(page):
    """Cells of every table row, as text."""
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_write_report__has_a_row_per_list_and_a_chart_per_quantity(page):
    rows = rows_of(page)
    assert ["trials", "EER, best", "EER, last", "min DCF, last"] in rows
    assert ["validation", "40.00 %", "30.00 %", "0.9500"] in rows
    assert ["trials", "19.25 %", "21.50 %", "0.9000"] in rows
    assert "Best: step 10, by EER in validation (40.00 %). Last: step 20." in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:4] == ["Results", "Verification", "Training", "Embeddings"]
    captions = re.findall("<figcaption>(.*?)<", page)
    assert captions[:5] == ["EER", "min DCF", "loss", "covariance", "learning rate"]
    assert {"effective rank", "LiDAR", "samples per second"} <= set(captions) and page.count("<svg") == 9
    verification = page.split("<svg")[1]
    assert re.findall(r">(validation|other)</text>", verification) == ["validation", "other"]


def test_write_report__tells_what_a_reader_must_not_miss_once(page):
    assert page.count("It has collapsed.") == 1 and page.count('class="note"') == 3
    assert "1 utterances could not be read" in page and ["hum.wav", "it has no sound"] in rows_of(page)
    assert "<h2>Skipped bank files</h2>" in page and ["torch", "2.99"] in rows_of(page)


def test_write_report__escapes_what_comes_from_outside(tmp_path):
    records = [{**record, f"test/{EVIL}$/eer": 20.0, f"{EVIL}": 1.0} for record in RECORDS]
    page = page_of(tmp_path, records, SUMMARY, b"seed: 1  # <script>\n", name="a<b>")
    assert "<img" not in page and "<script" not in page and "a<b>" not in page
    assert "<td>&lt;img src=x onerror=alert(1)&gt;.wav</td>" in page and "a&lt;b&gt;" in page


def test_write_report__is_one_file_that_needs_no_other(page):
    assert "http" not in page and "<link" not in page and "@import" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page) and not re.findall(r"url\((?!#)", page)
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert sum(map(len, ids)) == len(set.union(*ids)) > 0  # no id reaches into another picture


@pytest.mark.parametrize("missing", [None, "best", "last", "is_finished"])
def test_write_report__does_without_a_summary_or_any_one_part_of_it(tmp_path, missing):
    summary = {key: value for key, value in SUMMARY.items() if key != missing} if missing else None
    assert "30.00 %" in page_of(tmp_path, RECORDS, summary)


def test_write_report__of_a_run_without_any_record_yet(tmp_path):
    page = page_of(tmp_path)
    assert "not finished" in page and "Nothing was validated or tested yet." in page and "<svg" not in page


@pytest.mark.parametrize("validation", ["trials", "./trials", "other"])
def test_write_report__says_when_the_best_was_chosen_on_test_trials(tmp_path, validation):
    evaluation = EvaluationConfig(validation=validation, test=("trials",), allow_validation_on_test=True)
    page = page_of(tmp_path, config=to_yaml(Config(evaluation=evaluation)).encode())
    assert ("chosen on the test trials" in page) == (validation != "other")


def test_write_report__says_what_test_lists_share_with_the_training(tmp_path):
    run = {"started": "today", "warnings": ["3 of 3 speakers of trials were in training: a, b, c."]}
    RunFolder(str(tmp_path), "run").write_json("run.json", run)
    assert page_of(tmp_path).count("3 of 3 speakers of trials were in training: a, b, c.") == 1


def test_best_and_last__without_a_summary_follow_the_criterion_of_the_records():
    records = [
        {"step": step, "eer": 9.0 - step, "label_free/lidar": lidar, "criterion": "label_free/lidar"}
        for step, lidar in ((1, 40.0), (2, 90.0), (3, 80.0))
    ]
    best, last = best_and_last(
        {}, [*records[:2], records[2] | {"best_value": 90.0}, {"step": 4, "loss": 1.0}]
    )
    assert (best["step"], best["criterion"], best["value"], last["step"]) == (2, "label_free/lidar", 90.0, 3)
    assert best_and_last({}, [{"step": 1, "loss": 1.0}]) == ({}, {})


def test_reports_training__needs_neither_torch_nor_matplotlib_to_be_imported():
    code = "import sys, sslsv.reports.training; print({'torch', 'matplotlib', 'ray'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
