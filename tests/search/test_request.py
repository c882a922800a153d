"""Which folder a sweep may use, and what one that goes on may find changed."""

import pytest

from sslsv.config import Config, to_yaml
from sslsv.runs.folder import RunFolder
from sslsv.search.space import load_space
from sslsv.search.sweep import check_folder, describe_request, prepared_folder
from sslsv.search.trial_settings import base_config, fix_parameters
from sslsv.settings import FOLDER


def request(*overrides, space_file="tune_spaces/simclr.py"):
    space = load_space(space_file)
    base = base_config(space, overrides)
    return describe_request(fix_parameters(space, overrides), base, space_file, overrides, (4, 8, 12))


def check(tmp_path, before, now):
    folder = RunFolder(str(tmp_path), "sweep")
    folder.write_json("sweep.json", before)
    check_folder(folder, now, "resume")


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


def test_prepared_folder__fresh_keeps_the_old_sweep(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "a")
    with prepared_folder(folder, {"base": "seed: 1\n"}, "new"):
        pass
    check_folder(folder, {}, "fresh")
    with (
        prepared_folder(folder, {"base": "seed: 2\n"}, "fresh"),
        pytest.raises(ValueError, match="a is in use"),
        prepared_folder(folder, {}, "resume"),
    ):
        pass
    old = next(path for path in tmp_path.iterdir() if path.name.startswith("a.old-"))
    assert (old / "base.yml").read_text() == "seed: 1\n" and folder.read("base.yml") == b"seed: 2\n"


@pytest.mark.parametrize(
    ("takes_more", "trials", "is_taken"), [(True, 18, True), (True, 6, False), (False, 18, False)]
)
def test_prepared_folder__more_trials_where_the_scheduler_takes_them(takes_more, trials, is_taken, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    names = dict.fromkeys(("parameters", "space", "space_file"), "x")
    request = names | {"base": to_yaml(Config()), "trials": 12, "takes_more_trials": takes_more}
    with prepared_folder(folder, request, "new"):
        pass
    other = request | {"trials": trials}
    if is_taken:
        with prepared_folder(folder, other, "resume"):
            pass
        assert folder.read_json("sweep.json")["trials"] == trials
        with pytest.raises(ValueError, match="trials: 18 -> 12"):
            check_folder(folder, request, "resume")
    else:
        with pytest.raises(ValueError, match=f"trials: 12 -> {trials}"):
            check_folder(folder, other, "resume")
