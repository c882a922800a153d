import json
import re

from sslsv.reports.rounds import round_line, write_rounds_report
from sslsv.runs.folder import RunFolder

TESTED = [f"test/trials/{name}" for name in ("eer", "eer_low", "eer_high", "min_dcf")]


def record(stage, eer, **values):
    return {
        **{
            "stage": stage,
            "source": "statistics",
            "list": "lists/round_1",
            "criterion": "eer",
            "value": eer,
            "eer": eer,
        },
        **{"test": dict(zip(TESTED, (eer - 2, eer - 4, eer, 0.7), strict=True)), "training_seconds": 60.0},
        **{"kept": 0.75, "corrected": 0.125, **values},
    }


def clustered(stage, eer, **values):
    found = {"clusters": 31, "utterances": 990, "left_out": 10, "sizes": [2, 8.5, 20, 30, 77]}
    found |= {"silhouettes": {"31": 0.25, "60": 0.125}, "unreadable": {}, "nmi_before": None}
    times = {"embedding_seconds": 20.0, "clustering_seconds": 20.0}
    return record(stage, eer, **found, **times, **values)


RECORDS = [clustered("round_1", 21.5), clustered("round_2", 18.25, purity=0.5), record("large_margin", 17.75)]


def report_of(tmp_path, records, **summary):
    folder = RunFolder(str(tmp_path), "loop")
    folder.write("loop.yml", b"init: <statistics>\n")
    folder.write("rounds.jsonl", "".join(json.dumps(each) + "\n" for each in records).encode())
    if summary:
        folder.write_json("summary.json", summary)
    write_rounds_report(folder)
    return re.sub(r"\s+", " ", folder.read("report.html").decode())


def test_write_rounds_report__shows_stages_clusters_times_and_settings(tmp_path):
    page = report_of(tmp_path, RECORDS, best=RECORDS[2], run="/runs/loop/large_margin")
    for text in (
        "18.25 %",
        "16.25 % 14.25 to 18.25",
        "0.75",
        "0.125",
        "31 0.25, 60 0.125",
        "8.5",
        "(60%)",
        "&lt;statistics&gt;",
    ):
        assert text in page, text
    assert "finished" in page and "not finished" not in page and "/runs/loop/large_margin" in page
    assert page.count("<svg") == 2


def test_write_rounds_report__says_where_labels_were_used(tmp_path):
    sentence = "Purity and NMI with speakers compare with a list of labels. No choice used it."
    assert sentence in report_of(tmp_path / "with", RECORDS)
    assert sentence not in report_of(tmp_path / "without", RECORDS[:1])


def test_write_rounds_report__says_where_test_trials_chose(tmp_path):
    assert "No choice used test trials." in report_of(tmp_path, RECORDS)
    folder = RunFolder(str(tmp_path), "loop")
    folder.write("loop.yml", b"evaluation: {validation: trials, test: [trials]}\n")
    write_rounds_report(folder)
    page = re.sub(r"\s+", " ", folder.read("report.html").decode())
    assert "look better than they are" in page and "No choice used test trials." not in page


def test_write_rounds_report__of_a_loop_that_has_just_begun(tmp_path):
    assert "not finished" in report_of(tmp_path, [])


def test_round_line__tells_clusters_shares_and_validation():
    assert round_line(RECORDS[0]) == (
        "round_1: 31 clusters of 990 utterances, kept 0.750, corrected 0.125, EER 21.50 % in validation"
    )
    assert round_line({**RECORDS[2], "value": None}) == "large_margin: kept 0.750, corrected 0.125"
