import csv
import io
import json
import re

import pytest

from sslsv.config import Config, to_yaml
from sslsv.reports.sweep import COMBINED, grid_charts, importance, rank_criteria, write_sweep_report
from sslsv.runs.folder import RunFolder

KEYS = ["model.temperature", "optimizer.name", "optimizer.momentum"]


def sweep_folder(tmp_path, num_trials=18):
    """Write a sweep in which low temperatures win, the pseudo EER is half the EER, and trial 7 collapses."""
    folder, rows = RunFolder(str(tmp_path), "sweep"), []
    folder.write_json("sweep.json", {"space_file": "a.py", "space": "SPACE = <1>", "rungs": [1, 3, 9]})
    for trial in range(num_trials):
        last, eer = (1, 3, 9)[trial % 3], 10.0 + (trial * 7 % num_trials) / 2
        settings = {KEYS[0]: eer / 100, KEYS[1]: ("adamw", "sgd")[trial % 2]}
        settings |= {KEYS[2]: 0.9 - trial / 100} if trial % 2 else {}
        lines = [{"step": 1, "epoch": 0.1, "loss": 2.0}]
        for epoch in range(1, last + 1):
            lines.append({"step": epoch, "epoch": float(epoch), "eer": eer - epoch})
            lines[-1]["label_free/pseudo_eer"] = lines[-1]["eer"] / 2
        text = "".join(json.dumps(line) + "\n" for line in lines)
        folder.write(f"trials/{trial:04d}/metrics.jsonl", text.encode())
        state = "collapsed" if trial == 7 else "finished" if last == 9 else "stopped"
        measured = {"eer": lines[-1]["eer"], "min_dcf": 0.25, "seconds": 2.0 * last}
        measured["why"] = "its embeddings are alike" if trial == 7 else ""
        rows.append({"trial": trial, "state": state, "epoch": last, **measured, **settings})
    rows.sort(key=lambda row: (row["state"] == "collapsed", -row["epoch"], row["eer"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, ["trial", "state", "epoch", "eer", "min_dcf", "seconds", "why", *KEYS])
    writer.writeheader()
    writer.writerows(rows)
    folder.write("results.csv", table.getvalue().encode())
    return folder, rows


def report_of(folder):
    write_sweep_report(folder)
    return folder.read("report.html").decode().replace("<wbr>", "")


def test_write_sweep_report__has_every_section_and_picture(tmp_path):
    folder, rows = sweep_folder(tmp_path)
    comparison = {"trial": 3, "test_list": "voxceleb1_o", "seeds": 2, "lost": 0, "verdict": "better"}
    comparison |= {"mean": 9.5, "sd": 0.25, "base_mean": 10.3, "base_sd": 0.3}
    comparison |= {"difference": -0.8, "low": -1.2, "high": -0.4}
    folder.write_json("confirmation.json", {"comparisons": [comparison]})
    text = report_of(folder)
    headings = ["Trials", "Learning curves", "Importance of settings", "Without labels"]
    assert re.findall("<h2>(.*?)</h2>", text) == [*headings, "Confirmed on test trials", "Search space"]
    assert text.count("<svg") == 1 and "<script" not in text and "http" not in text and "&lt;1&gt;" in text
    best = rows[0]
    assert f"<b>{best['eer']:.2f} %</b><small>trial {best['trial']}</small>" in text
    found = f"<td>{best['eer']:.2f} %</td><td>0.2500</td>"
    assert f"<td>{best['trial']}</td><td>finished</td><td>9</td>{found}" in text
    assert "<td>pseudo EER</td><td>1</td><td>17</td><td>1</td><td>0</td>" in text
    confirmed = "<td>3</td><td>voxceleb1_o</td><td>2</td><td>0</td><td>9.50 ± 0.25</td><td>10.30 ± 0.30</td>"
    assert f"{confirmed}<td>-0.80\n-1.20 to -0.40</td><td>better</td>" in text
    assert f">trial {best['trial']}</text>" in text and "collapsed</td>" in text


def test_write_sweep_report__says_what_was_searched_and_links_to_the_trials_that_have_a_page(tmp_path):
    folder, rows = sweep_folder(tmp_path)
    request = folder.read_json("sweep.json") | {
        "base": to_yaml(Config()),
        "command": "python -m sslsv.tune a.py",
    }
    folder.write_json("sweep.json", request)
    folder.write(f"trials/{rows[0]['trial']:04d}/report.html", b"")
    text = report_of(folder)
    for pair in (
        ("method", "simclr"),
        ("chosen by", "EER in validation"),
        ("command", "python -m sslsv.tune a.py"),
    ):
        assert "<td>{}</td><td>{}</td>".format(*pair) in text
    assert f"sslsv train {folder.location}/best.yml" in text
    name = f"trials/{rows[0]['trial']:04d}/report.html"
    assert re.findall('<a href="(.*?)">(.*?)</a>', text) == [(name, str(rows[0]["trial"]))]


@pytest.mark.parametrize("num_trials", [18, 57])
def test_write_sweep_report__says_why_trials_were_lost_and_how_many_it_shows(tmp_path, num_trials):
    text = report_of(sweep_folder(tmp_path, num_trials)[0])
    is_whole = num_trials == 18
    assert ("<th>why</th>" in text) == ("<td>its embeddings are alike</td>" in text) == is_whole
    assert ("The best 50 of 57 trials; results.csv has all." in text) == (not is_whole)


def test_write_sweep_report__counts_what_early_stopping_saved(tmp_path):
    folder, rows = sweep_folder(tmp_path)
    epochs = sum(row["epoch"] for row in rows)
    collapsed = next(row["epoch"] for row in rows if row["state"] == "collapsed")  # not stopped early
    assert f"<b>{epochs}</b><small>{17 * 9 + collapsed} without early stopping</small>" in report_of(folder)


@pytest.mark.parametrize("content", [None, b"\n", b"place,trial,state,epoch,seconds,why\n"])
def test_write_sweep_report__of_a_sweep_without_any_trial_yet(tmp_path, content):
    folder = RunFolder(str(tmp_path), "sweep")
    folder.write_json("sweep.json", {"space_file": "a.py", "space": "", "rungs": [1]})
    if content is not None:
        folder.write("results.csv", content)
    assert "<svg" not in report_of(folder)


def test_grid_charts__a_number_has_a_line_for_each_alternative():
    rows = [
        {"state": "finished", "eer": 10.0 - fraction, "alternative": way, "data.fraction": fraction}
        for way in ("frozen", "from scratch")
        for fraction in (1.0, 0.01, 0.1)
    ]
    rows.append({"state": "stopped", "eer": 3.0, "alternative": "lost", "data.fraction": 1.0})
    ((caption, svg),) = grid_charts(rows, ["alternative", "data.fraction"], "eer")
    assert caption == "EER over data.fraction" and ">data.fraction</text>" in svg
    assert ">frozen</text>" in svg and ">from scratch</text>" in svg and "lost" not in svg
    assert ">0.01</text>" in svg and ">0.1</text>" in svg  # the axis is logarithmic
    assert grid_charts(rows[:1], ["data.fraction"], "eer") == []


def test_write_sweep_report__draws_the_metric_over_numbers_of_a_grid_only(tmp_path):
    folder, _ = sweep_folder(tmp_path)
    assert "Over the grid" not in report_of(folder)
    folder.write_json("sweep.json", {**folder.read_json("sweep.json"), "searcher": "grid"})
    assert "<h2>Over the grid</h2>" in report_of(folder)


def test_importance__finds_the_one_setting_that_matters():
    columns = {"a": [float(i) for i in range(12)], "b": ["x", "y"] * 6, "c": [None, 1.0] * 6}
    shares = importance(columns, [2.0 * i for i in range(11)] + [None])
    assert next(iter(shares)) == "a" and set(shares) == {"a", "b"} and int(shares["a"].rstrip("%")) > 80
    assert importance(columns, [1.0] * 7 + [None] * 5) == {}
    assert importance({"a": [1] * 12}, columns["a"]) == {}  # no setting was varied
    assert importance(columns, [1.0] * 12) == {}  # min_dcf is 1 for all at an early rung


PSEUDO, RANKME = "label_free/pseudo_eer", "label_free/rankme"


@pytest.mark.parametrize(
    ("criterion", "values", "eers", "tau", "regret"),
    [
        (PSEUDO, [1, 2, 3, 4, 5, 6], [10, 11, 20, 30, 40, 41], 1.0, 0.0),
        (RANKME, [6, 5, 4, 3, 2, 1], [10, 11, 20, 30, 40, 41], 1.0, 0.0),  # higher ranks are better
        # Order by criterion: trials 2, 0, 1, 3; by EER: 0, 1, 2, 3.  Of six pairs two disagree: (6 - 4) / 6.
        (PSEUDO, [2.0, 3.0, 1.0, 4.0], [10.0, 12.0, 15.0, 20.0], 1 / 3, 5.0),
        (PSEUDO, [4, 3, 2, 1], [10, 20, 30, 40], -1.0, 30.0),
        (PSEUDO, [1, 1, 2], [10, 14, 20], 2 / 6**0.5, 2.0),  # equally good trials share their regret
        (PSEUDO, [1, 1, 1], [10, 14, 21], None, 5.0),  # a constant criterion gives no order
    ],
)
def test_rank_criteria__by_hand(criterion, values, eers, tau, regret):
    records = [{criterion: value, "eer": eer} for value, eer in zip(values, eers, strict=True)]
    (found,) = rank_criteria({3: records})
    numbers = {"trials": len(eers), "tau": tau and pytest.approx(tau), "regret": regret}
    assert found == {"criterion": criterion, "epoch": 3, **numbers}


def test_rank_criteria__combines_the_ranks_of_two():
    # Ranks by pseudo-trial EER 1, 2, 3, 4, by RankMe 3, 4, 2, 1: sums 5, 8, 8, 9.
    pairs = [(30.0, 9.0), (31.0, 8.0), (35.0, 20.0), (40.0, 30.0)]
    records = [{PSEUDO: p, RANKME: r, "eer": 10.0 + i} for i, (p, r) in enumerate(pairs)]
    *single, combined = rank_criteria({3: [*records, {PSEUDO: 1.0, RANKME: 50.0, "eer": None}]})
    assert [each["criterion"] for each in single] == [PSEUDO, RANKME]
    assert combined["criterion"] == COMBINED and (combined["trials"], combined["regret"]) == (4, 0.0)
    assert combined["tau"] == pytest.approx(5 / 30**0.5)  # five pairs agree, one is tied


def test_rank_criteria__compares_at_the_same_epoch_and_leaves_out_what_is_not_there():
    records = [{"eer": 10.0 + i, PSEUDO: 1.0 + i, RANKME: None} for i in range(4)]
    found = list(rank_criteria({4: records, 12: records[:2], 36: [*records[:3], {"eer": 1.0}]}))
    assert [(r["criterion"], r["epoch"], r["trials"]) for r in found] == [(PSEUDO, 4, 4), (PSEUDO, 36, 3)]
    assert all(r["tau"] == pytest.approx(1.0) for r in found)
