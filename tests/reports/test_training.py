import json
import re

import pytest

from sslsv.config import Config, EvaluationConfig, to_yaml
from sslsv.reports.training import best_and_last, curve_sections, speed_of, summary_lines, write_report
from sslsv.runs.folder import RunFolder

SPEED = {"samples_per_second": 10.0, "data_wait_share": 0.25, "seconds": 60.0, "seconds_left": 5.0}
RECORDS = [
    {"step": 10, "epoch": 1.0, "loss": 4.0, "covariance": 0.5, "learning_rate": 0.1, "eer": 40.0, **SPEED},
    {
        **{"step": 20, "epoch": 2.0, "loss": 3.0, "covariance": 0.4, "gradient_norm": None, "eer": 30.0},
        **{"min_dcf": 0.95, "test/other/eer": 25.0, "label_free/lidar": 7.0, "effective_rank": 12.0},
        **{"has_collapsed": True, "notice": "It has collapsed.", "total_steps": 20},
        **{"skipped": {"utterances": {"a.wav": "it is empty"}, "bank_files": {}}},
    },
]
SUMMARY = {
    "is_finished": True,
    "stop_reason": "It has collapsed.",
    "last": {"step": 20, "test/trials/eer": 21.5, "test/trials/min_dcf": 0.9},
    "best": {"step": 10, "criterion": "eer", "value": 40.0, "test/trials/eer": 19.25}
    | {"test/trials/eer_low": 15.5, "test/trials/eer_high": 23.0},
    "seconds": 75.0,
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
    return folder.read("report.html").decode().replace("<wbr>", "")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("runs"), RECORDS, SUMMARY)


def rows_of(page):
    """Return the cells of every table row, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def test_write_report__has_a_row_per_list_and_a_chart_per_quantity(page):
    rows = rows_of(page)
    assert ["trials", "EER, best", "EER, last", "min DCF, last"] in rows
    assert ["validation", "40.00 %", "30.00 %", "0.9500"] in rows
    assert ["trials", "19.25 %\n15.50 to 23.00", "21.50 %", "0.9000"] in rows
    assert "<span>EER, trials</span><b>19.25 %</b><small>15.50 to 23.00</small>" in page
    assert "Best: step 10, by EER in validation (40.00 %). Last: step 20." in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:4] == ["Results", "Verification", "Training", "Embeddings, without labels"]
    captions = re.findall("<figcaption>(.*?)<", page)
    assert captions[:5] == ["EER", "min DCF", "loss", "covariance", "learning rate"]
    assert {"RankMe", "LiDAR", "samples per second"} <= set(captions) and page.count("<svg") == 9
    verification = page.split("<svg")[1]
    assert re.findall(r">(validation|other)</text>", verification) == ["validation", "other"]


def test_write_report__tells_what_a_reader_must_not_miss_once(page):
    assert page.count("It has collapsed.") == 1 and page.count('class="note"') == 3
    assert "1 utterances could not be read" in page and ["hum.wav", "it has no sound"] in rows_of(page)
    assert "<h2>Skipped bank files</h2>" in page and ["torch", "2.99"] in rows_of(page)


def test_write_report__is_one_file_that_needs_no_other(page):
    assert "http" not in page and "<link" not in page and "@import" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page) and not re.findall(r"url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert sum(map(len, ids)) == len(set.union(*ids)) > 0  # no id occurs in two pictures


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


def test_write_report__says_on_top_what_was_trained_on_what_and_where(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    warning = "3 of 3 speakers of trials were in training: a, b, c."
    folder.write_json("run.json", {"command": "sslsv train configs/a.yml seed=3", "warnings": [warning]})
    sizes = {"parameters": 5_250_000, "encoder_parameters": 1_400_000, "utterances": 1_092_009}
    machine = {"environment": {"cpu": "8 cores, Some CPU", "gpu": "2 x Some GPU"}, "workers": 2}
    folder.write_json("trained.json", {**sizes, "speakers": 5994, "hours": 2361.25, **machine})
    page = page_of(tmp_path, RECORDS, SUMMARY, config=to_yaml(Config()).encode())
    assert rows_of(page)[:5] == [
        ["method", "simclr"],
        ["encoder", "thin_resnet34, 1.40 M parameters (5.25 M with the rest of the method)"],
        ["speech", "2,361.2 hours, 1,092,009 utterances of 5,994 speakers"],
        ["hardware", "2 training worker(s), 2 x Some GPU"],
        ["command", "sslsv train configs/a.yml seed=3"],
    ]
    assert page.count(warning) == 1


def test_curve_sections__one_quantity_has_one_name_and_a_line_for_each_kind_of_recording():
    keys = ["feature_std", "effective_rank", "uniformity", "batch_feature_std"]
    keys += [f"label_free/{name}" for name in ("rankme", "feature_std", "uniformity", "lidar")]
    record = {"step": 1, **dict.fromkeys(keys, 0.5)}
    figures = {s.heading: dict(s.figures) for s in curve_sections([record, record | {"step": 2}], None)}
    found = figures["Embeddings, without labels"]
    lines = {
        "feature std": ["training crops", "validation recordings", "training utterances"],
        "uniformity": ["validation recordings", "training utterances"],
        "RankMe": ["validation recordings", "training utterances"],
        "LiDAR": [],  # a single curve needs no legend
    }
    assert found.keys() == lines.keys()
    for caption, names in lines.items():
        legend = re.findall(r">(training \w+|validation recordings)</text>", found[caption])
        assert sorted(legend) == sorted(names), caption


def test_speed_of__is_of_all_steps_over_the_time_of_training():
    records = [
        {"step": 10, "samples_per_second": 10.0, "data_wait_share": 1.0},  # 10 steps in 1 unit of time
        {"step": 40, "samples_per_second": 10.0, "data_wait_share": 0.0},  # 30 steps in 3
        {"step": 60, "samples_per_second": 5.0, "data_wait_share": 0.5},  # 20 steps in 4
    ]
    assert speed_of(records) == (pytest.approx(60 / 8), pytest.approx((1 + 2) / 8))
    assert speed_of([]) == speed_of([{"step": 1}]) == (0.0, 0.0)


def test_write_report__links_to_evaluations_and_to_the_sweep_of_a_trial(tmp_path):
    sweep = RunFolder(str(tmp_path), "sweep")
    sweep.write_json("sweep.json", {})
    for name in ("report", "probe"):
        sweep.write(f"trials/0003/evaluation/{name}.html", b"")
    page = page_of(tmp_path / "sweep" / "trials", RECORDS, SUMMARY, name="0003")
    links = re.findall(r'<a href="(.*?)">(.*?)</a>', page)
    assert links == [
        ("evaluation/probe.html", "Probe"),
        ("evaluation/report.html", "Evaluation"),
        ("../../report.html", "Sweep sweep"),
    ]


def test_summary_lines__say_it_in_words_with_units_and_intervals(tmp_path):
    page_of(tmp_path, RECORDS, SUMMARY)
    assert [*summary_lines(RunFolder(str(tmp_path), "run"))] == [
        "It has collapsed.",
        "Best: step 10, by EER in validation (40.00 %). Last: step 20.",
        "validation: EER, best 40.00 %; EER, last 30.00 %; min DCF, last 0.9500",
        "trials: EER, best 19.25 %, 15.50 to 23.00; EER, last 21.50 %; min DCF, last 0.9000",
        "other: EER, last 25.00 %",
        "trained for 0:01:15: 10 utterances per second, 25% of the time waiting for data",
    ]


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
