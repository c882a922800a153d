import json
import re
import time

import pytest

from sslsv.config import Config, EvaluationConfig, to_yaml
from sslsv.reports.training import best_and_last, main, write_report
from sslsv.runs.folder import RunFolder

EVIL = "<img src=x onerror=alert(1)>.wav"

RECORDS = [
    {
        "step": 10,
        "epoch": 1.0,
        "loss": 4.0,
        "covariance": 0.5,
        "learning_rate": 0.1,
        "gradient_norm": 1.0,
        "eer": 40.0,
    },
    {
        "step": 20,
        "epoch": 2.0,
        "loss": 3.0,
        "covariance": 0.4,
        "gradient_norm": None,
        "eer": 30.0,
        "min_dcf": 0.95,
        "notice": "It has collapsed.",
    },
]
SUMMARY = {
    "is_finished": True,
    "stop_reason": None,
    "last": {"step": 20, "test/trials/eer": 21.5, "test/trials/min_dcf": 0.9},
    "best": {"step": 10, "criterion": "eer", "value": 30.0, "test/trials/eer": 19.25},
    "skipped": {"utterances": {EVIL: f"{EVIL} is empty."}},
    "samples_per_second": 10.0,
    "workers": 1,
    "seconds": 60.0,
    "environment": {"torch": "2.99"},
}


def page_of(tmp_path, records=(), summary=None, config=b"seed: 1\n", name="run"):
    folder = RunFolder(str(tmp_path), name)
    folder.write("config.yml", config)
    folder.append_lines("metrics.jsonl", [json.dumps(record) for record in records])
    if summary is not None:
        folder.write_json("summary.json", summary)
    write_report(folder)
    return folder.read("report.html").decode()


def rows_of(page):
    """Cells of every table row, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]


def test_write_report__has_a_row_per_list_and_a_chart_per_quantity(tmp_path):
    page = page_of(tmp_path, RECORDS, SUMMARY)
    assert ["trials", "EER, best", "EER, last", "minDCF, best", "minDCF, last"] in rows_of(page)
    assert ["validation", "40.00 %", "30.00 %", "–", "0.9500"] in rows_of(page)
    assert ["trials", "19.25 %", "21.50 %", "–", "0.9000"] in rows_of(page)
    assert "Best: step 10, chosen by EER in validation. Last: step 20." in page
    for title in (
        "EER, percent",
        "minDCF",
        "Loss",
        "Loss term: covariance",
        "Learning rate",
        "Gradient norm",
    ):
        assert page.count(f"<figcaption>{title}<") == 1, title
    assert page.count("<svg") == 6
    assert "finished" in page and "2.99" in page and page.count("It has collapsed.") == 1


def test_write_report__escapes_what_comes_from_outside(tmp_path):
    records = [{**record, f"test/{EVIL}$/eer": 20.0, f"{EVIL}": 1.0} for record in RECORDS]
    page = page_of(tmp_path, records, SUMMARY, b"seed: 1  # <script>\n", name="a<b>")
    assert "<img" not in page and "<script" not in page and "a<b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;.wav is empty." in page and "a&lt;b&gt;" in page


def test_write_report__is_one_file_that_needs_no_other(tmp_path):
    page = page_of(tmp_path, RECORDS, SUMMARY)
    assert "http" not in page and "<link" not in page and "@import" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert not re.findall(r"url\((?!#)", page)


def test_write_report__ids_in_one_picture_do_not_reach_into_another(tmp_path):
    page = page_of(tmp_path, RECORDS, SUMMARY)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    ids = [set(re.findall(r' id="([^"]+)"', picture)) for picture in pictures]
    assert sum(map(len, ids)) == len(set.union(*ids)) > 0


def test_write_report__of_a_run_without_any_record_yet(tmp_path):
    page = page_of(tmp_path)
    assert "not finished" in page and "Nothing was validated or tested yet." in page and "<svg" not in page


@pytest.mark.parametrize("missing", sorted(SUMMARY))
def test_write_report__does_without_any_one_part_of_the_summary(tmp_path, missing):
    page = page_of(tmp_path, RECORDS, {key: value for key, value in SUMMARY.items() if key != missing})
    assert "30.00 %" in page


def test_write_report__of_a_hundred_thousand_records_is_small_and_quick(tmp_path):
    keys = (
        "loss",
        "a",
        "b",
        "c",
        "learning_rate",
        "gradient_norm",
        "batch_feature_std",
        "samples_per_second",
    )
    lines = [
        {"step": 10 * i, "eer": 20.0} | {key: 1.0 + i * 7919 % 1000 for key in keys} for i in range(100_000)
    ]
    start = time.process_time()
    page = page_of(tmp_path, lines)
    assert len(page) < 3_000_000
    assert time.process_time() - start < 30
    assert page.count("<svg") == 9


@pytest.mark.parametrize("validation", ["trials", "./trials", "other"])
def test_write_report__says_when_the_best_was_chosen_on_test_trials(tmp_path, validation):
    evaluation = EvaluationConfig(validation=validation, test=("trials",), allow_validation_on_test=True)
    page = page_of(tmp_path, config=to_yaml(Config(evaluation=evaluation)).encode())
    assert ("chosen on the test trials" in page) == (validation != "other")
    assert page.count('class="note"') == (validation != "other")


def test_write_report__of_settings_of_another_version_says_that_they_are_unchecked(tmp_path):
    assert "no_such_setting is not a setting" in page_of(tmp_path, config=b"no_such_setting: 1\n")


def test_write_report__tells_a_repeated_notice_once(tmp_path):
    records = [{"step": step, "loss": 1.0, "notice": f"Collapsed at step {step}."} for step in (1, 2, 3)]
    page = page_of(tmp_path, records, {"stop_reason": "Collapsed at step 3."})
    assert "Collapsed at step 3. (Noticed 3 times, first at step 1.)" in page
    assert page.count('class="note"') == 1


def test_best_and_last__without_a_summary_follow_the_criterion_of_the_records():
    records = [
        {
            "step": 1,
            "eer": 9.0,
            "label_free/lidar": 40.0,
            "criterion": "label_free/lidar",
            "best_value": 40.0,
        },
        {
            "step": 2,
            "eer": 8.0,
            "label_free/lidar": 90.0,
            "criterion": "label_free/lidar",
            "best_value": 90.0,
        },
        {
            "step": 3,
            "eer": 7.0,
            "label_free/lidar": 80.0,
            "criterion": "label_free/lidar",
            "best_value": 90.0,
        },
        {"step": 4, "loss": 1.0},
    ]
    best, last = best_and_last({}, records)
    assert (best["step"], best["criterion"], best["value"], last["step"]) == (2, "label_free/lidar", 90.0, 3)


def test_best_and_last__of_records_without_a_criterion_are_by_eer():
    best, last = best_and_last(
        {}, [{"step": 1, "eer": 9.0}, {"step": 2, "eer": 8.0}, {"step": 3, "eer": 8.5}]
    )
    assert (best["step"], best["value"], last["step"]) == (2, 8.0, 3)
    assert best_and_last({"best": {"step": 1, "eer": 9.0}}, [])[0]["value"] == 9.0
    assert best_and_last({}, [{"step": 1, "loss": 1.0}]) == ({}, {})


def test_main__writes_the_report_of_a_run_and_says_where(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "run")
    folder.write("config.yml", b"seed: 1\n")
    assert main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").is_file()


def test_main__a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no config.yml" in capsys.readouterr().err
