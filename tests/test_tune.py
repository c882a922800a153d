"""Test the entire command: one-sentence errors, a small sweep, and the same sweep killed several times."""

import contextlib
import os
import random
import sys
import time
from dataclasses import replace
from unittest import mock

import pytest
import torch

from sslsv.cluster import connect
from sslsv.config import load_config, to_yaml
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder, only_command_on
from sslsv.settings import apply_overrides
from sslsv.tune import main
from tests.training_command import Command, kill, title

SPACE = """
from ray import tune
from sslsv.search import Asha, Halving, Space

SPACE = Space(
    base={base!r},
    parameters={{
        "model.temperature": tune.loguniform(0.02, 1.0),
        "optimizer.learning_rate": tune.loguniform(1e-4, 1e-2),
    }},
    trials={trials},
    scheduler={scheduler},
    rung_epochs=(1, 2),
)
"""


def write_space(folder, config, trials=4, scheduler="Halving(reduction=2)"):
    changes = ["train.batch_size=10", "evaluation.test=[trials]", "run.wandb=disabled"]
    (folder / "base.yml").write_text(to_yaml(apply_overrides(config, changes)))
    text = SPACE.format(base=str(folder / "base.yml"), trials=trials, scheduler=scheduler)
    (folder / "space.py").write_text(text)
    return folder / "space.py"


class Tuning(Command):
    """Run `python -m sslsv.tune` on a space; the sweep's folder is next to the space's file."""

    def __init__(self, space, name, *options):
        storage = str(space.parent / "tune")
        self.folder = RunFolder(storage, name)
        command = (sys.executable, "-m", "sslsv.tune", str(space), "--storage", storage, "--name", name)
        super().__init__(*command, *options)

    def lines(self, name):
        return self.folder.records(f"{name}.jsonl")

    def validations(self):
        trials = [RunFolder(self.folder.path("trials"), f"{index:04d}") for index in range(9)]
        return sum("eer" in record for trial in trials for record in trial.metrics())

    def kill_trial(self):
        """Wait for a validation, then kill a process that Ray Tune has started for a segment."""
        self.wait_until(lambda: self.validations() and self.trials(), "a trial with a validation")
        kill(self.trials()[0])

    def trials(self):
        return [pid for pid in self.pids() if "ImplicitFunc.train" in title(pid)]


def assert_same_sweep(a, b, in_order=False):
    """Check that two sweeps have equal configurations, decisions, values and final weights."""
    assert a.lines("configurations") == b.lines("configurations")
    for name in ("decisions", "outcomes"):
        ours, theirs = (list(map(str, tuning.lines(name))) for tuning in (a, b))
        assert ours == theirs if in_order else sorted(ours) == sorted(theirs)
    for index in {decision["index"] for decision in a.lines("decisions")}:
        folders = [RunFolder(t.folder.path("trials"), f"{index:04d}") for t in (a, b)]
        one, other = (read_checkpoint(folder, find_checkpoint(folder, "last")) for folder in folders)
        assert one.step == other.step
        assert all(torch.equal(weight, other.model[name]) for name, weight in one.model.items())


@pytest.fixture(scope="module")
def reference(tmp_path_factory, small_config):
    space = write_space(tmp_path_factory.mktemp("tune"), small_config)
    tuning = Tuning(space, "whole")
    code, output = tuning.wait()
    assert code == 0, output
    return space, tuning, output


def test_tune__leaves_trials_decisions_and_the_best_settings(reference):
    _, tuning, output = reference
    # Halving of four trials: two go on, then one.
    decisions = tuning.lines("decisions")
    assert [decision["rung"] for decision in decisions] == [0, 0, 0, 0, 1, 1, 2]
    outcomes = tuning.lines("outcomes")
    assert sorted(outcome["epoch"] for outcome in outcomes) == [1, 1, 1, 1, 2, 2, 4]
    first = sorted((o["value"], o["index"]) for o in outcomes if o["epoch"] == 1)
    assert {o["index"] for o in outcomes if o["epoch"] == 2} == {index for _, index in first[:2]}
    winner = next(o["index"] for o in outcomes if o["epoch"] == 4)
    assert f"best: trial {winner}, EER " in output and "1 finished, 3 stopped" in output
    assert f"report: {tuning.folder.location}/report.html\n" in output
    assert f"next: python -m sslsv.train {tuning.folder.location}/best.yml\n" in output
    page = tuning.folder.read("report.html").decode()
    assert page.count('<a href="trials/') == 3  # only the best trials have pages
    trial = tuning.folder.read(f"trials/{winner:04d}/report.html").decode()
    assert '<a href="../../report.html">Sweep whole</a>' in trial
    assert tuning.folder.has("best.yml") and tuning.folder.has("results.csv")
    trial = RunFolder(tuning.folder.path("trials"), f"{winner:04d}")
    assert trial.has("summary.json")
    assert not any(key.startswith("test/") for record in trial.metrics() for key in record)
    assert not os.path.exists(tuning.folder.path("ray"))


def test_tune__without_resume_or_fresh_a_sweep_is_left_alone(reference, capsys):
    space, tuning, _ = reference
    before = tuning.folder.read("decisions.jsonl")
    assert main([str(space), "--storage", str(space.parent / "tune"), "--name", "whole"]) == 2
    assert "--resume continues it, --fresh starts anew" in capsys.readouterr().err
    assert tuning.folder.read("decisions.jsonl") == before


def test_main__a_sweep_that_another_command_holds_is_refused_before_ray_starts(
    tmp_path, small_config, monkeypatch, capsys
):
    monkeypatch.setattr(connect, "connection", lambda resources: pytest.fail("Ray was started"))
    space = write_space(tmp_path, small_config)
    with only_command_on(RunFolder(str(tmp_path / "tune"), "held")):
        assert main([str(space), "--storage", str(tmp_path / "tune"), "--name", "held"]) == 2
    assert f"tune/held is in use by process {os.getpid()}" in capsys.readouterr().err


def test_main__without_a_space_those_that_there_are_are_named(capsys):
    assert main([]) == 2
    sentence = "error: no space is named: try tune_spaces/demo.py first; tune_spaces/ has "
    error = capsys.readouterr().err
    assert error.startswith(sentence) and "vicreg.py" in error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--resume"], "holds no sweep to resume"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        (["--trials", "0"], "trials is 0; it should be greater than or equal to 1"),
    ],
)
def test_main__mistakes_are_one_sentence_and_exit_code_2(options, sentence, tmp_path, small_config, capsys):
    space = write_space(tmp_path, small_config)
    assert main([str(space), "--storage", str(tmp_path / "tune"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and "Traceback" not in error
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize(
    ("key", "choices", "sentence"),
    [
        ("train.batch_size", [10, 100_000, 20], "train.batch_size is 100000, but there are only"),
        ("encoder.init", [None, "runs/missing"], "runs/missing"),
    ],
)
def test_main__what_data_or_weights_rule_out_is_refused_wherever_in_the_space_it_is(
    key, choices, sentence, tmp_path, small_config, capsys
):
    space = write_space(tmp_path, small_config)
    searched = space.read_text().replace(
        'model.temperature": tune.loguniform(0.02, 1.0)', f'{key}": tune.choice({choices})'
    )
    space.write_text(searched)
    assert main([str(space), "--storage", str(tmp_path / "tune")]) == 2
    assert sentence in capsys.readouterr().err


def test_main__fp16_without_a_gpu_is_refused_in_a_sentence(tmp_path, small_config, monkeypatch, capsys):
    machines = {"a": {"CPU": 4.0}}
    state = connect.Cluster(machines, machines, leaving=set(), num_starting=0, has_autoscaler=False)
    monkeypatch.setattr(
        connect, "connection", lambda asked, *_, **__: contextlib.nullcontext(replace(asked, gpu=False))
    )
    monkeypatch.setattr(connect, "cluster_state", lambda: state)
    options = ["--storage", str(tmp_path / "tune"), "--plan", "train.precision=fp16"]
    assert main([str(write_space(tmp_path, small_config)), *options]) == 2
    assert "error: train.precision is 'fp16', which needs a GPU" in capsys.readouterr().err


def test_main__without_trials_a_sweep_that_goes_on_keeps_its_number(
    tmp_path, small_config, capsys, ray_session
):
    RunFolder(str(tmp_path / "tune"), "space").write_json("sweep.json", {"trials": 6})
    options = ["--storage", str(tmp_path / "tune"), "--plan", "--confirm", "1"]
    assert main([str(write_space(tmp_path, small_config)), *options]) == 0
    assert "6 trials of" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit], ids=["Ctrl-C", "SIGTERM, as Ray raises it"])
def test_main__stopped_by_a_signal_it_says_how_to_go_on(stop, monkeypatch, capsys):
    monkeypatch.setattr("sslsv.tune.run", mock.Mock(side_effect=stop))
    assert main(["tune_spaces/demo.py"]) == 130
    assert capsys.readouterr().err == "stopped; the same command with --resume goes on\n"


def test_main__what_the_machine_cannot_hold_is_refused_before_anything_starts(
    tmp_path, small_config, capsys, ray_session
):
    space = write_space(tmp_path, small_config)
    options = [str(space), "--storage", str(tmp_path / "tune")]
    assert main([*options, "resources.workers=5"]) == 2
    assert "have room for 4" in capsys.readouterr().err
    assert main([*options, "--trials", "9", "--concurrent", "9"]) == 2
    assert "9 trial(s) at once should run, but 4 fit" in capsys.readouterr().err
    assert not (tmp_path / "tune" / "space").exists()


def test_main__plan_says_what_would_run_and_starts_nothing(
    tmp_path, small_config, capsys, ray_session, monkeypatch
):
    asked = []
    monkeypatch.setattr("sslsv.cluster.connect.request_machines", asked.append)
    space = write_space(tmp_path, small_config)
    options = ["--storage", str(tmp_path / "tune"), "--plan", "--concurrent", "2", "--confirm", "1"]
    assert main([str(space), *options]) == 0
    printed = capsys.readouterr().out
    assert "2 trials at once" in printed and "about 4 to epoch 1, 2 to epoch 2, 1 to epoch 4" in printed
    assert "then, to confirm, 6 trainings of 4 epochs" in printed
    assert "8 epochs instead of 16" in printed
    main([str(write_space(tmp_path, small_config, scheduler="Asha(reduction=2)")), *options])
    assert "at least 4 to epoch 1, 2 to epoch 2, 1 to epoch 4: 8 epochs" in capsys.readouterr().out
    assert not (tmp_path / "tune").exists() and not asked  # no machines requested


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "options"),
    [("Halving(reduction=2)", ()), ("Asha(reduction=2)", ("--concurrent", "1"))],
    ids=["halving", "asha, one at a time"],
)
def test_tune__killed_at_three_random_moments_it_makes_the_same_decisions(
    scheduler, options, tmp_path, small_config
):
    space = write_space(tmp_path, small_config, trials=6, scheduler=scheduler)
    undisturbed = Tuning(space, "undisturbed", *options)
    code, output = undisturbed.wait()
    assert code == 0, output
    rng = random.Random(1717)
    resume = []
    for moment in sorted(rng.sample(range(1, 9), 3)):
        killed = Tuning(space, "killed", *options, *resume)
        # A random moment in the segment after this number of validations.
        killed.wait_until(lambda n=moment, tuning=killed: tuning.validations() >= n, f"{moment} validations")
        time.sleep(rng.random() * 2)
        killed.kill()
        resume = ["--resume"]
    last = Tuning(space, "killed", *options, "--resume")
    code, output = last.wait()
    assert code == 0, output
    assert_same_sweep(undisturbed, last, in_order="--concurrent" in options)


@pytest.mark.slow
def test_tune__a_killed_trial_is_started_again_within_the_same_command(reference, small_config):
    space, undisturbed, _ = reference
    tuning = Tuning(space, "one_killed")
    tuning.kill_trial()
    code, output = tuning.wait()
    assert code == 0, output
    assert_same_sweep(undisturbed, tuning)


@pytest.mark.slow
def test_tune__a_killed_trial_of_two_workers_gives_back_what_it_had_reserved(tmp_path, small_config):
    space = write_space(tmp_path, small_config, trials=2)
    two_workers = ("resources.workers=2", "resources.cpus_per_worker=0.5")
    two_workers += ("resources.cpus_per_data_task=0.5", "resources.data_tasks=1")
    tuning = Tuning(space, "one_killed", *two_workers, "--concurrent", "1")
    tuning.kill_trial()  # the process holds no CPU itself, but its workers' CPUs must be released too
    code, output = tuning.wait(timeout=900)  # regression test: it once waited for ever
    assert code == 0, output
    assert "1 finished, 1 stopped" in output
    assert all(outcome["state"] == "reached" for outcome in tuning.lines("outcomes"))
    winner = next(o["index"] for o in tuning.lines("outcomes") if o["epoch"] == 4)
    assert RunFolder(tuning.folder.path("trials"), f"{winner:04d}").read_json("summary.json")["workers"] == 2


@pytest.mark.slow
def test_tune__confirm_trains_the_base_and_the_best_anew_and_says_how_they_compare(tmp_path, small_config):
    tuning = Tuning(write_space(tmp_path, small_config, trials=2), "sweep", "--confirm", "1", "--seeds", "2")
    code, output = tuning.wait(timeout=900)
    assert code == 0, output
    assert "on test trials:" in output
    (found,) = tuning.folder.read_json("confirmation.json")["comparisons"]
    assert (found["test_list"], found["seeds"], found["lost"]) == ("trials", 2, 0)
    folders = [RunFolder(tuning.folder.path("confirm/trials"), f"{index:04d}") for index in range(4)]
    base, best, more_base, more_best = (load_config(folder.path("config.yml")) for folder in folders)
    assert base.seed == best.seed and more_base.seed == more_best.seed == base.seed + 1
    assert base.optimizer == more_base.optimizer and best.optimizer == more_best.optimizer != base.optimizer
    ends = [folder.read_json("summary.json")["best"]["test/trials/eer"] for folder in folders]
    assert (found["base_mean"], found["mean"]) == (
        pytest.approx(sum(ends[::2]) / 2),
        pytest.approx(sum(ends[1::2]) / 2),
    )
