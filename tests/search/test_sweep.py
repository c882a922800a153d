"""A sweep and its files: legs in order, killed anywhere, half-written lines."""

import dataclasses
import io
import json

import pytest
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

import sslsv.tune
from sslsv.config import Config, EvaluationConfig, ResourcesConfig, RunConfig, TrainConfig, read_config
from sslsv.runs.folder import RunFolder
from sslsv.search import Asha, Halving, Hyperband, RunAll, Space
from sslsv.search.executor import Legs
from sslsv.search.places import Places
from sslsv.search.results import write_results
from sslsv.search.sweep import Sweep
from sslsv.search.sweep_folder import SweepFolder
from sslsv.search.table import draw

BASE = Config(train=TrainConfig(epochs=9), evaluation=EvaluationConfig(held_out_speakers=4, test=("trials",)))
RUNGS = (1, 3, 9)


def open_sweep(tmp_path, name="sweep", **changes):
    parameters = {"model.temperature": tune.uniform(0.01, 1.0), "optimizer.momentum": tune.uniform(0, 1)}
    values = {"scheduler": Halving(3), "rung_epochs": (1, 3), "trials": 9}
    space = Space(**{"base": "a.yml", "parameters": parameters} | values | changes)
    folder = RunFolder(str(tmp_path), name)
    files = SweepFolder(folder, RUNGS, space.metrics[0], space.is_lower_better)
    return Sweep(space, BASE, RUNGS, files)


def train(sweep, leg, state="reached"):
    """What a trial would leave of a leg: the lower the temperature, the better."""
    folder = sweep.folder.trial_folder(leg.index)
    value = 50 * sweep.folder.suggestions[leg.index]["model.temperature"]
    epoch = RUNGS[leg.rung]
    record = {"step": 10 * epoch, "epoch": float(epoch), "loss": 1.0, "eer": value, "seconds": 2.0 * epoch}
    if state == "collapsed":
        record["has_collapsed"] = True
    folder.append_lines(
        "metrics.jsonl", [json.dumps({"step": 1, "epoch": 0.1, "loss": 2.0}), json.dumps(record)]
    )
    sweep.end_leg(leg, state, "")


def finish(sweep, stop_after=None):
    """Train leg after leg; `stop_after` legs die with the driver while they run."""
    count = 0
    while not sweep.is_over:
        leg = sweep.next_leg(at_once=1)
        if leg is None:
            continue
        count += 1
        if count == stop_after:
            return False
        train(sweep, leg)
    return True


def content(sweep):
    names = ("suggestions", "decisions", "outcomes", "records")
    return [sweep.folder.folder.read(f"{name}.jsonl") for name in names]


SEARCHES = [
    {},
    {"scheduler": Asha(3)},
    {"scheduler": Asha(2), "searcher": "tpe", "startup_trials": 2},
    {"scheduler": Hyperband(3), "searcher": "tpe", "startup_trials": 2, "trials": 12},
    {
        "scheduler": Asha(2),
        "searcher": "tpe",
        "startup_trials": 2,
        "parameters": {
            "model.temperature": tune.uniform(0.01, 1.0),
            "model.projector_dims": tune.choice([(8, 8), ()]),
        },
    },
]


@pytest.mark.parametrize("changes", SEARCHES, ids=str)
def test_sweep__killed_after_every_leg_it_leaves_the_same_files(tmp_path, changes):
    whole = open_sweep(tmp_path, "whole", **changes)
    assert finish(whole)
    for _ in range(200):
        if finish(open_sweep(tmp_path, "killed", **changes), stop_after=2):
            break
    killed = open_sweep(tmp_path, "killed", **changes)
    assert content(killed) == content(whole)
    assert killed.folder.history == whole.folder.history and killed.is_over
    assert killed.folder.suggestions == whole.folder.suggestions


def test_sweep__a_suggestion_is_written_before_its_trial_and_never_drawn_again(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    sweep.next_leg(at_once=1)
    (line,) = sweep.folder.folder.read("suggestions.jsonl").decode().splitlines()
    assert json.loads(line)["settings"] == sweep.folder.suggestions[0]
    changed = line.replace(str(sweep.folder.suggestions[0]["model.temperature"]), "0.125")
    sweep.folder.folder.write("suggestions.jsonl", (changed + "\n").encode())
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert again.next_leg(at_once=1).index == 0
    assert again.folder.suggestions[0]["model.temperature"] == 0.125
    trial = again.folder.trial_folder(0)
    assert "temperature: 0.125" in trial.read("config.yml").decode() and trial.has("run.json")


def test_sweep__runs_no_more_legs_at_once_than_fit(tmp_path):
    sweep = open_sweep(tmp_path)
    legs = [sweep.next_leg(at_once=2) for _ in range(3)]
    assert [leg and leg.index for leg in legs] == [0, 1, None]
    train(sweep, legs[1])
    assert sweep.next_leg(at_once=2).index == 2


def test_sweep__an_interrupted_leg_comes_first_when_it_goes_on(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    for _ in range(2):
        train(sweep, sweep.next_leg(at_once=1))
    lost = sweep.next_leg(at_once=1)
    assert open_sweep(tmp_path, scheduler=Asha(3)).next_leg(at_once=1) == lost


def test_sweep__a_fault_of_the_storage_is_tried_again_and_the_third_in_a_row_halts(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    first = sweep.next_leg(at_once=1)
    for _ in range(2):
        sweep.put_back(first, "the disk is away")
        assert sweep.next_leg(at_once=1) == first
    train(sweep, first)  # it is there again
    legs = Legs(sweep, at_once=1, changed=lambda: None)
    for number in range(3):
        assert isinstance(legs.suggest(str(number)), dict)
        legs.on_trial_complete(str(number), {"state": "interrupted", "why": "the disk is away"})
    assert legs.suggest("3") == Searcher.FINISHED
    assert "3 legs in a row could not go on, the last of trial 1: the disk is away" in sweep.halted
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert [outcome.index for outcome in again.folder.history.outcomes] == [0]
    assert again.halted is None and again.next_leg(at_once=1).index == 1


def test_legs__files_that_cannot_be_written_halt_the_sweep_and_a_restart_goes_on(tmp_path, monkeypatch):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    legs = Legs(sweep, at_once=2, changed=lambda: None)
    for name in "ab":
        assert isinstance(legs.suggest(name), dict)

    def full(name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep.folder.folder, "write", full)
    legs.on_trial_complete("a", {"state": "reached", "why": ""})
    assert "the files of the sweep can't be read or written: [Errno 28] No space left" in sweep.halted
    legs.on_trial_complete("b", {"state": "reached", "why": ""})
    assert legs.suggest("c") == Searcher.FINISHED
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert [leg.index for leg in again.folder.history.open_legs()] == [0, 1]


def test_sweep_folder__records_are_kept_once_and_a_half_written_line_is_mended(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=2)
    leg = sweep.next_leg(at_once=1)
    train(sweep, leg)
    sweep.folder.collect(leg.index)
    assert len(sweep.folder.records) == 1
    with open(sweep.folder.folder.path("records.jsonl"), "ab") as file:
        file.write(b'{"index": 1, "st')
    again = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=2)
    train(again, again.next_leg(at_once=1))
    lines = [json.loads(line) for line in again.folder.folder.read("records.jsonl").decode().splitlines()]
    assert [(line["index"], line["epoch"]) for line in lines] == [(0, 9.0), (1, 9.0)]


def test_sweep__records_that_a_power_cut_took_are_collected_again_when_it_goes_on(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=2)
    train(sweep, sweep.next_leg(at_once=1))
    whole = sweep.folder.records
    sweep.folder.folder.write("records.jsonl", b"")
    interrupted = sweep.next_leg(at_once=1)
    record = {"step": 10, "epoch": 1.0, "eer": 3.0}  # after the last checkpoint: it comes again
    sweep.folder.trial_folder(interrupted.index).append_lines("metrics.jsonl", [json.dumps(record)])
    again = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=2)
    assert again.folder.records == whole and len(whole) == 1


def test_sweep_folder__a_higher_rank_wins_where_higher_is_better(tmp_path):
    sweep = open_sweep(tmp_path, metric="label_free/rankme", scheduler=RunAll(), rung_epochs=(), trials=2)
    for value in (3.0, 7.0):
        leg = sweep.next_leg(at_once=1)
        record = {"step": 90, "epoch": 9.0, "label_free/rankme": value}
        sweep.folder.trial_folder(leg.index).append_lines("metrics.jsonl", [json.dumps(record)])
        sweep.end_leg(leg, "reached", "")
    best = write_results(sweep)
    assert best.index == 1 and sweep.folder.value(best) == 7.0


def test_write_results__a_collapsed_trial_cannot_win_and_the_best_settings_train_again(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=4)
    best = min(
        range(4), key=lambda i: sweep.suggester.suggest(i, {}, sweep.folder.history)["model.temperature"]
    )
    while not sweep.is_over:
        leg = sweep.next_leg(at_once=1)
        train(sweep, leg, "collapsed" if leg.index == best else "reached")
    winner = write_results(sweep)
    assert winner.index != best and winner.can_win
    rows = sweep.folder.folder.read("results.csv").decode().splitlines()
    assert rows[0].startswith("place,trial,state,epoch,eer,seconds") and "model.temperature" in rows[0]
    assert rows[-1].startswith(f"4,{best},collapsed")
    from sslsv.config import load_config

    (tmp_path / "best.yml").write_bytes(sweep.folder.folder.read("best.yml"))
    config = load_config(tmp_path / "best.yml")
    assert config.model.temperature == sweep.folder.suggestions[winner.index]["model.temperature"]
    assert config.evaluation.test == ("trials",) and config.run.name == "sweep-best"
    assert sorted(path.name for path in (tmp_path / "sweep" / "tensorboard").iterdir()) == [
        f"{i:04d}" for i in range(4) if i != best
    ]


def test_write_results__best_settings_are_as_asked_and_chosen_by_what_chose_them(tmp_path):
    base = dataclasses.replace(
        BASE,
        evaluation=EvaluationConfig(),  # nothing with labels
        resources=ResourcesConfig(data_tasks=3),
        run=RunConfig(max_failures=7),
    )
    plain = open_sweep(tmp_path, metric="label_free/rankme", scheduler=RunAll(), rung_epochs=(), trials=1)
    places = ResourcesConfig(data_tasks=1, threads_per_worker=1, gpu=False)
    sweep = Sweep(plain.space, base, RUNGS, plain.folder, places)
    leg = sweep.next_leg(at_once=1)
    record = {"step": 90, "epoch": 9.0, "label_free/rankme": 3.0}
    folder = sweep.folder.trial_folder(leg.index)
    folder.append_lines("metrics.jsonl", [json.dumps(record)])
    sweep.end_leg(leg, "reached", "")
    write_results(sweep)
    trained = read_config(folder.read("config.yml").decode())
    best = read_config(sweep.folder.folder.read("best.yml").decode())
    assert trained.resources == places and best.resources == base.resources
    assert best.evaluation.criterion == "label_free/rankme" and best.run.max_failures == 7
    assert best.model.temperature == trained.model.temperature


def test_sweep_folder__trials_are_compared_at_the_rungs_they_reached_alive(tmp_path):
    sweep = open_sweep(tmp_path)
    for _ in range(9):
        leg = sweep.next_leg(at_once=1)
        train(sweep, leg, "collapsed" if leg.index == 4 else "reached")
    train(sweep, sweep.next_leg(at_once=1))
    at_rungs = sweep.folder.at_rungs()
    assert list(at_rungs) == [1, 3, 9]
    assert sorted(at_rungs[1]) == [0, 1, 2, 3, 5, 6, 7, 8] and len(at_rungs[3]) == 1 and not at_rungs[9]
    (winner,) = at_rungs[3]
    assert at_rungs[3][winner]["epoch"] == 3.0 and at_rungs[1][winner]["epoch"] == 1.0


def test_write_results__when_all_collapse_nothing_is_best(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=RunAll(), rung_epochs=(), trials=2)
    while not sweep.is_over:
        train(sweep, sweep.next_leg(at_once=1), "collapsed")
    assert write_results(sweep) is None
    assert not sweep.folder.folder.has("best.yml") and sweep.folder.folder.has("results.csv")


def test_sweep__settings_that_do_not_go_together_are_a_failed_trial(tmp_path):
    parameters = {
        "model.temperature": tune.uniform(0.01, 1.0),
        "optimizer.schedule.name": tune.choice(["step", "cosine"]),
        "optimizer.learning_rate": tune.choice([1e-3, 1e-6]),  # below the cosine's lowest rate
    }
    sweep = open_sweep(tmp_path, parameters=parameters, scheduler=RunAll(), rung_epochs=(), trials=12)
    assert finish(sweep)
    failed = {o.index: o.why for o in sweep.folder.history.outcomes if o.state == "failed"}
    assert failed and all("min_learning_rate" in why for why in failed.values())
    for index, settings in sweep.folder.suggestions.items():
        is_impossible = (settings["optimizer.schedule.name"], settings["optimizer.learning_rate"]) == (
            "cosine",
            1e-6,
        )
        assert (index in failed) == is_impossible


def test_search__interrupted_it_leaves_the_results_so_far(tmp_path, monkeypatch):
    sweep = open_sweep(tmp_path)

    def interrupted(sweep, places, group):
        finish(sweep, stop_after=4)
        raise KeyboardInterrupt

    monkeypatch.setattr(sslsv.tune, "train_legs", interrupted)
    places = Places(at_once=1, has_gpu=False, gpus=0.0, threads=1, data_tasks=1)
    with pytest.raises(KeyboardInterrupt):
        sslsv.tune.search(sweep, places)
    folder = sweep.folder.folder
    assert len(folder.read("results.csv").decode().splitlines()) == 1 + 3 and folder.has("report.html")


def test_draw__shows_the_best_first_what_runs_and_what_was_stopped(tmp_path):
    sweep = open_sweep(tmp_path, trials=3)
    legs = [sweep.next_leg(at_once=3) for _ in range(3)]
    for leg in legs:
        train(sweep, leg)
    sweep.next_leg(at_once=3)
    console = Console(file=io.StringIO(), width=150)
    console.print(draw(sweep))
    shown = console.file.getvalue()
    best = min(range(3), key=lambda i: sweep.folder.suggestions[i]["model.temperature"])
    first = next(line for line in shown.splitlines() if "temperature=" in line)
    assert "sweep: 2 of 3 trials, 1 running" in shown
    assert f" {best} " in first and "1 > 3" in first and "running" in first and shown.count("stopped") == 2
