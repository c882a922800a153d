import pytest

from sslsv.config import Config, EvaluationConfig, to_yaml
from sslsv.report import main, write_report
from sslsv.run_folder import RunFolder


def test_write_report__shows_results_curves_and_escapes_names(tmp_path):
    folder = RunFolder(str(tmp_path), "a<b>")
    folder.write("config.yml", b"seed: 1  # <script>\n")
    records = [
        {"step": 10, "epoch": 1.0, "loss": 4.0, "eer": 40.0, "gradient_norm": 1.0},
        {"step": 20, "epoch": 2.0, "loss": 3.0, "eer": 30.0, "gradient_norm": None, "notice": "collapsed"},
    ]
    import json

    folder.append_lines("metrics.jsonl", [json.dumps(r) for r in records])
    folder.write_json(
        "summary.json",
        {
            "is_finished": True,
            "stop_reason": None,
            "last": {"step": 20, "test/trials/eer": 21.5, "test/trials/min_dcf": 0.9},
            "best": {"step": 20, "eer": 30.0},
            "bad_utterances": {"x.wav": "x.wav is <empty>."},
            "samples_per_second": 10.0,
            "workers": 1,
            "seconds": 60.0,
        },
    )
    write_report(folder)
    page = folder.read("report.html").decode()
    assert "30.00 % at step 20" in page and "21.50 %" in page and "0.9000" in page
    assert "collapsed" in page and "x.wav is &lt;empty&gt;" in page
    assert "<script>" not in page and "a<b>" not in page
    assert page.count("<svg") == 3


def test_write_report__of_a_run_without_any_record_yet(tmp_path):
    folder = RunFolder(str(tmp_path), "new")
    folder.write("config.yml", b"seed: 1\n")
    write_report(folder)
    assert "not finished" in folder.read("report.html").decode()


@pytest.mark.parametrize("validation", ["trials", "./trials", "other"])
def test_write_report__says_when_the_best_was_chosen_on_test_trials(tmp_path, validation):
    folder = RunFolder(str(tmp_path), "run")
    evaluation = EvaluationConfig(validation=validation, test=("trials",), allow_validation_on_test=True)
    folder.write("config.yml", to_yaml(Config(evaluation=evaluation)).encode())
    write_report(folder)
    page = folder.read("report.html").decode()
    assert ("chosen on the test trials" in page) == (validation != "other")
    assert page.count('class="warning"') == (validation != "other")


def test_write_report__of_settings_of_another_version_says_that_they_are_unchecked(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.write("config.yml", b"no_such_setting: 1\n")
    write_report(folder)
    assert "no_such_setting is not a setting" in folder.read("report.html").decode()


def test_main__a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no config.yml" in capsys.readouterr().err
