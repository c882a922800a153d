"""Test a sweep and its files: order of segments, kills at any point, allowed folders and changes."""

import dataclasses
import json

import pytest
from ray import tune

import sslsv.tune
from sslsv.config import (
    Config,
    EvaluationConfig,
    ResourcesConfig,
    RunConfig,
    TrainConfig,
    load_config,
    read_config,
    to_yaml,
)
from sslsv.runs.folder import RunFolder, absolute
from sslsv.search import Asha, Halving, Space
from sslsv.search.executor import Slots
from sslsv.search.schedulers import ranking
from sslsv.search.space import load_space
from sslsv.search.sweep import Sweep, check_folder, describe_request, prepare_folder
from sslsv.search.trial_settings import base_config, with_overrides
from sslsv.settings import FOLDER

BASE = Config(train=TrainConfig(epochs=9), evaluation=EvaluationConfig(held_out_speakers=4, test=("trials",)))


def open_sweep(tmp_path, name="sweep", **changes):
    parameters = {"model.temperature": tune.uniform(0.01, 1.0), "optimizer.momentum": tune.uniform(0, 1)}
    values = {"scheduler": Halving(3), "rung_epochs": (1, 3), "trials": 9}
    space = Space(**{"base": "a.yml", "parameters": parameters} | values | changes)
    rungs = (*space.rung_epochs, BASE.train.epochs)
    folder = RunFolder(str(tmp_path), name)
    folder.write_json("sweep.json", {"space_file": "a.py", "space": "", "rungs": rungs})
    return Sweep(space, BASE, rungs, folder, BASE.resources)


def train(sweep, segment, state="reached"):
    """Write the result of a segment as a trial would; lower temperatures give lower EERs."""
    folder = sweep.trial_folder(segment.index)
    value = 50 * sweep.configurations[segment.index]["model.temperature"]
    epoch = sweep.rungs[segment.rung]
    record = {"step": 10 * epoch, "epoch": float(epoch), "loss": 1.0, "eer": value, "seconds": 2.0 * epoch}
    if state == "collapsed":
        record["has_collapsed"] = True
    folder.append_lines(
        "metrics.jsonl", [json.dumps({"step": 1, "epoch": 0.1, "loss": 2.0}), json.dumps(record)]
    )
    sweep.end_segment(segment, state, "")


def finish(sweep, stop_after=None):
    """Train segment after segment; return False when the driver dies during segment number `stop_after`."""
    count = 0
    while not sweep.is_over:
        segment = sweep.next_segment(at_once=1)
        if segment is None:
            continue
        count += 1
        if count == stop_after:
            return False
        train(sweep, segment)
    return True


def content(sweep):
    names = ("configurations", "decisions", "outcomes")
    return [sweep.folder.read(f"{name}.jsonl") for name in names]


LISTS = {"model.temperature": tune.uniform(0.01, 1.0), "model.projector_dims": tune.choice([(8, 8), ()])}
TPE = {"searcher": "tpe", "startup_trials": 2}
TO_THE_END = {"scheduler": None, "rung_epochs": ()}
SEARCHES = [{}, {"scheduler": Asha(3)}, {"scheduler": Asha(2), "parameters": LISTS, **TPE}]


@pytest.mark.parametrize("changes", SEARCHES, ids=str)
def test_sweep__killed_after_every_segment_it_leaves_the_same_files(tmp_path, changes):
    whole = open_sweep(tmp_path, "whole", **changes)
    assert finish(whole)
    for _ in range(200):
        if finish(open_sweep(tmp_path, "killed", **changes), stop_after=2):
            break
    killed = open_sweep(tmp_path, "killed", **changes)
    assert content(killed) == content(whole)
    assert killed.history == whole.history and killed.is_over
    assert killed.configurations == whole.configurations


def test_sweep__a_configuration_is_written_before_its_trial_and_never_drawn_again(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    sweep.next_segment(at_once=1)
    (line,) = sweep.folder.read("configurations.jsonl").decode().splitlines()
    assert json.loads(line)["settings"] == sweep.configurations[0]
    changed = line.replace(str(sweep.configurations[0]["model.temperature"]), "0.125")
    sweep.folder.write("configurations.jsonl", (changed + "\n").encode())
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert again.next_segment(at_once=1).index == 0
    assert again.configurations[0]["model.temperature"] == 0.125
    trial = again.trial_folder(0)
    assert "temperature: 0.125" in trial.read("config.yml").decode() and trial.has("run.json")


def test_sweep__runs_no_more_segments_at_once_than_fit(tmp_path):
    sweep = open_sweep(tmp_path)
    segments = [sweep.next_segment(at_once=2) for _ in range(3)]
    assert [segment and segment.index for segment in segments] == [0, 1, None]
    train(sweep, segments[1])
    assert sweep.next_segment(at_once=2).index == 2


def test_write_results__a_collapsed_trial_cannot_win_and_the_best_settings_train_again(tmp_path):
    sweep = open_sweep(tmp_path, **TO_THE_END, trials=4)
    best = min(range(4), key=lambda i: sweep.searcher.choose(i, {}, sweep.history)["model.temperature"])
    while not sweep.is_over:
        segment = sweep.next_segment(at_once=1)
        train(sweep, segment, "collapsed" if segment.index == best else "reached")
    winner = sweep.write_results()
    assert winner.index != best and winner.can_win
    rows = sweep.folder.read("results.csv").decode().splitlines()
    assert rows[0].startswith("place,trial,state,epoch,eer,seconds") and "model.temperature" in rows[0]
    assert rows[-1].startswith(f"4,{best},collapsed")
    (tmp_path / "best.yml").write_bytes(sweep.folder.read("best.yml"))
    config = load_config(tmp_path / "best.yml")
    assert config.model.temperature == sweep.configurations[winner.index]["model.temperature"]
    assert config.evaluation.test == ("trials",) and config.run.name == "sweep-best"


def test_write_results__best_settings_are_as_asked_and_chosen_by_what_chose_them(tmp_path):
    labels = {"evaluation": EvaluationConfig(), "run": RunConfig(max_failures=7)}  # no validation trials
    base = dataclasses.replace(BASE, resources=ResourcesConfig(data_tasks=3), **labels)
    plain = open_sweep(tmp_path, metric="label_free/rankme", **TO_THE_END, trials=2)
    here = ResourcesConfig(data_tasks=1, threads_per_worker=1, gpu=False)
    sweep = Sweep(plain.space, base, plain.rungs, plain.folder, here)
    for value in (3.0, 7.0):
        segment = sweep.next_segment(at_once=1)
        record = {"step": 90, "epoch": 9.0, "label_free/rankme": value}
        sweep.trial_folder(segment.index).append_lines("metrics.jsonl", [json.dumps(record)])
        sweep.end_segment(segment, "reached")
    winner = sweep.write_results()  # a higher rank is better
    assert winner.index == 1 and sweep.value(winner) == 7.0
    trained = read_config(sweep.trial_folder(1).read("config.yml").decode())
    best = read_config(sweep.folder.read("best.yml").decode())
    assert trained.resources == here and best.resources == base.resources
    assert best.evaluation.criterion == "label_free/rankme" and best.run.max_failures == 7
    assert best.model.temperature == trained.model.temperature


def test_write_results__when_all_collapse_nothing_is_best(tmp_path):
    sweep = open_sweep(tmp_path, **TO_THE_END, trials=2)
    while not sweep.is_over:
        train(sweep, sweep.next_segment(at_once=1), "collapsed")
    sweep.folder.write("best.yml", b"")  # of a trial that collapsed later
    assert sweep.write_results() is None
    assert not sweep.folder.has("best.yml") and sweep.folder.has("results.csv")


def test_sweep__settings_that_do_not_go_together_are_a_failed_trial(tmp_path):
    parameters = {
        "model.temperature": tune.uniform(0.01, 1.0),
        "optimizer.schedule.name": tune.choice(["step", "cosine"]),
        "optimizer.learning_rate": tune.choice([1e-3, 1e-6]),  # 1e-6: below the cosine's minimum
    }
    sweep = open_sweep(tmp_path, parameters=parameters, **TO_THE_END, trials=24)
    assert finish(sweep)
    failed = {o.index: o.why for o in sweep.history.outcomes if o.state == "failed"}
    assert failed and all("min_learning_rate" in why for why in failed.values())
    for index, settings in sweep.configurations.items():
        is_impossible = {"cosine", 1e-6} <= set(settings.values())
        assert (index in failed) == is_impossible


def test_search__interrupted_it_leaves_the_results_so_far(tmp_path, monkeypatch):
    sweep = open_sweep(tmp_path)

    def interrupted(sweep, slots, group):
        finish(sweep, stop_after=4)
        raise KeyboardInterrupt

    monkeypatch.setattr("sslsv.search.executor.run_sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sslsv.tune.search(sweep, Slots(at_once=1, gpus=0.0, resources=ResourcesConfig()))
    assert len(sweep.folder.read("results.csv").decode().splitlines()) == 1 + 3
    assert sweep.folder.has("report.html")


def test_end_segment__tells_what_came_of_it_and_which_is_best(tmp_path, capsys):
    sweep = open_sweep(tmp_path, trials=3)
    for _ in range(3):
        train(sweep, sweep.next_segment(at_once=1))
    lines = capsys.readouterr().err.splitlines()
    values = [outcome.cost for outcome in sweep.history.outcomes]
    is_best = [value == min(values[: i + 1]) for i, value in enumerate(values)]
    assert [line.endswith("(best so far)") for line in lines] == is_best
    assert "epoch    1  reached  trial 0, EER " in lines[0] and "temperature=" in lines[0]
    assert [sweep.state_of(outcome) for outcome in ranking(sweep.history)] == ["unfinished"] * 3
    assert sweep.folder.read("results.csv").count(b"\n") == 4  # the results exist however the command ends


def test_end_segment__what_cannot_win_is_never_the_best_so_far(tmp_path, capsys):
    sweep = open_sweep(tmp_path)
    train(sweep, sweep.next_segment(at_once=1), "collapsed")
    assert "collapsed" in (line := capsys.readouterr().err) and "best so far" not in line


def test_alternatives__trials_and_the_best_settings_have_what_their_names_stand_for(tmp_path):
    ways = {"tuned": {"encoder.init": "runs/a", "encoder.rate_scale": 0.5}}
    sweep = open_sweep(tmp_path, alternatives=ways, trials=2, **TO_THE_END)
    assert finish(sweep) and sweep.configurations[0]["alternative"] == "tuned"
    assert sweep.config_of(0).encoder.init == absolute("runs/a")  # trials run in other folders
    sweep.write_results()
    best = read_config(sweep.folder.read("best.yml").decode())
    assert (best.encoder.init, best.encoder.rate_scale) == ("runs/a", 0.5)
    assert b",tuned," in sweep.folder.read("results.csv")


def test_write_results__another_method_has_in_the_best_settings_what_its_trial_had(tmp_path):
    parameters = {"model.temperature": tune.uniform(0.1, 0.2), "model.name": tune.choice(["simclr"])}
    shared = {"model.projector_dims": [16]}
    sweep = open_sweep(tmp_path, parameters=parameters, settings=shared, **TO_THE_END, trials=1)
    train(sweep, sweep.next_segment(at_once=1))
    sweep.write_results()
    trained, best = (sweep.trial_folder(0).read("config.yml"), sweep.folder.read("best.yml"))
    assert read_config(trained.decode()).model == read_config(best.decode()).model
    assert read_config(best.decode()).model.projector_dims == (16,)


def request(*overrides, space_file="tune_spaces/simclr.py"):
    space = with_overrides(load_space(space_file), overrides)
    return describe_request(space, base_config(space), space_file, (4, 8, 12))


def check_resume(tmp_path, before, now):
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
    out_of_memory = ("train.recompute=true", "evaluation.batch_seconds=60")
    check_resume(tmp_path, request(), request(*changed, *out_of_memory))


def test_check_folder__another_space_or_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the text of tune_spaces/simclr.py"):
        check_resume(tmp_path, request(), request() | {"space": "other"})
    with pytest.raises(ValueError, match=r"train.batch_size: 256 -> 8"):
        check_resume(tmp_path, request(), request("train.batch_size=8"))
    with pytest.raises(ValueError, match="the contents of the lists to train and validate on"):
        check_resume(tmp_path, request() | {"lists": "a"}, request() | {"lists": "b"})
    alone = "train.sync_batchnorm=false"
    with pytest.raises(ValueError, match="resources.workers: 1 -> 2, and with it batch statistics"):
        check_resume(tmp_path, request(alone), request(alone, "resources.workers=2"))


@pytest.mark.parametrize(("file", "kind"), [("config.yml", "run"), ("loop.yml", "loop")])
def test_check_folder__of_a_run_or_loop_is_refused_and_fresh_keeps_it(tmp_path, file, kind):
    folder = RunFolder(str(tmp_path), "a")
    folder.write(file, b"")
    for mode in ("new", "resume"):
        with pytest.raises(ValueError, match=f"a holds a {kind}; --name .* --fresh "):
            check_folder(folder, {"base": ""}, mode)
    prepare_folder(folder, {"base": ""}, "fresh")
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith("a.old-")]
    assert (old / file).exists() and folder.has("sweep.json") and not folder.has(file)


def test_prepare_folder__fresh_keeps_the_old_sweep(tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, {"base": "seed: 1\n"}, "new")
    prepare_folder(folder, {"base": "seed: 2\n"}, "fresh")
    old = next(path for path in tmp_path.iterdir() if path.name.startswith("a.old-"))
    assert json.loads((old / "sweep.json").read_text())["base"] == "seed: 1\n"
    assert folder.read_json("sweep.json")["base"] == "seed: 2\n"


def test_prepare_folder__more_trials_where_the_scheduler_takes_them(tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    asked = {"space": "x", "space_file": "x", "base": to_yaml(Config()), "trials": 12}
    prepare_folder(folder, asked, "new")
    with pytest.raises(ValueError, match="trials: 12 -> 18"):
        check_folder(folder, asked | {"trials": 18, "takes_more_trials": False}, "resume")
    prepare_folder(folder, asked | {"trials": 18, "takes_more_trials": True}, "resume")
    assert folder.read_json("sweep.json")["trials"] == 18
    with pytest.raises(ValueError, match="trials: 18 -> 12"):
        check_folder(folder, asked | {"takes_more_trials": True}, "resume")
    folder.write_json("sweep.json", asked | {"trials": None})  # as in the sweep of a grid
    with pytest.raises(ValueError, match="trials: None -> 12"):
        check_folder(folder, asked | {"takes_more_trials": True}, "resume")
