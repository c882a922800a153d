"""What a sweep that goes on may find changed."""

import pytest

from sslsv.runs.folder import RunFolder
from sslsv.search.request import check_folder, describe_request
from sslsv.search.space import load_space
from sslsv.search.trial_settings import base_config, fix_parameters
from sslsv.settings import FOLDER
from sslsv.tune import parse_arguments


def request(*overrides, space_file="tune_spaces/simclr.py"):
    options = parse_arguments([space_file, *overrides, "--plan"])
    space = load_space(options.space)
    base = base_config(space, options.overrides)
    return describe_request(fix_parameters(space, options.overrides), base, options, (4, 8, 12))


def check(tmp_path, before, now):
    folder = RunFolder(str(tmp_path), "sweep")
    folder.write_json("sweep.json", before)
    check_folder(folder, now, is_fresh=False, is_resumed=True)


def test_describe_request__a_space_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = request(space_file="tune_spaces/demo.py")
    assert found["space"] == (FOLDER / "tune_spaces/demo.py").read_text()
    assert found["space_file"] == "tune_spaces/demo.py"


def test_check_folder__where_it_runs_and_what_it_is_tested_on_may_change(tmp_path):
    changed = ("resources.workers=2", "run.max_failures=2", "evaluation.test=[others]")
    check(tmp_path, request(), request(*changed))


def test_check_folder__another_search_space_is_refused_even_with_the_same_base(tmp_path):
    same_value = f"optimizer.learning_rate={base_learning_rate()}"
    for before, now in ((request(), request(same_value)), (request(same_value), request())):
        with pytest.raises(ValueError, match=r"parameters: \[.*learning_rate"):
            check(tmp_path, before, now)


def base_learning_rate():
    return base_config(load_space("tune_spaces/simclr.py"), []).optimizer.learning_rate


def test_check_folder__other_workers_are_refused_where_they_change_batch_statistics(tmp_path):
    alone = "train.sync_batchnorm=false"
    with pytest.raises(ValueError, match="resources.workers: 1 -> 2 .*batch statistics depend on it"):
        check(tmp_path, request(alone), request(alone, "resources.workers=2"))
