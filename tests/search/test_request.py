"""Which folder a sweep may use, and what one that goes on may find changed."""

import pytest

from sslsv.config import Config, to_yaml
from sslsv.runs.folder import RunFolder
from sslsv.search.space import load_space
from sslsv.search.sweep import check_folder, describe_request, prepare_folder
from sslsv.search.trial_settings import base_config, with_overrides
from sslsv.settings import FOLDER


def request(*overrides, space_file="tune_spaces/simclr.py"):
    space = with_overrides(load_space(space_file), overrides)
    return describe_request(space, base_config(space), space_file, (4, 8, 12))


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


def test_check_folder__another_space_or_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the text of tune_spaces/simclr.py"):
        check(tmp_path, request(), request() | {"space": "other"})
    with pytest.raises(ValueError, match=r"train.batch_size: 256 -> 8"):
        check(tmp_path, request(), request("train.batch_size=8"))


def test_check_folder__other_workers_are_refused_where_they_change_batch_statistics(tmp_path):
    alone = "train.sync_batchnorm=false"
    with pytest.raises(ValueError, match="resources.workers: 1 -> 2 .*batch statistics depend on it"):
        check(tmp_path, request(alone), request(alone, "resources.workers=2"))


def test_prepare_folder__fresh_keeps_the_old_sweep(tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, {"base": "seed: 1\n"}, "new")
    prepare_folder(folder, {"base": "seed: 2\n"}, "fresh")
    old = next(path for path in tmp_path.iterdir() if path.name.startswith("a.old-"))
    assert (old / "base.yml").read_text() == "seed: 1\n" and folder.read("base.yml") == b"seed: 2\n"


@pytest.mark.parametrize(
    ("takes_more", "trials", "is_taken"), [(True, 18, True), (True, 6, False), (False, 18, False)]
)
def test_prepare_folder__more_trials_where_the_scheduler_takes_them(takes_more, trials, is_taken, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    names = dict.fromkeys(("space", "space_file"), "x")
    request = names | {"base": to_yaml(Config()), "trials": 12, "takes_more_trials": takes_more}
    prepare_folder(folder, request, "new")
    other = request | {"trials": trials}
    if is_taken:
        prepare_folder(folder, other, "resume")
        assert folder.read_json("sweep.json")["trials"] == trials
        with pytest.raises(ValueError, match="trials: 18 -> 12"):
            check_folder(folder, request, "resume")
    else:
        with pytest.raises(ValueError, match=f"trials: 12 -> {trials}"):
            check_folder(folder, other, "resume")
