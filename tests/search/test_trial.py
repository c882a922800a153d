"""Test segments of a trial in this process, with batches made without Ray."""

import pytest
import torch

from sslsv.config import to_yaml
from sslsv.evaluation.verification import Verification
from sslsv.runs.checkpoint import find_checkpoint, list_checkpoints, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.search.trial import run_segment
from sslsv.settings import apply_overrides
from sslsv.training import loop as train_loop

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def config(small_config):
    return apply_overrides(small_config, ["train={epochs: 6, batch_size: 10, log_every_steps: 50}"])


def trial(tmp_path, config, name="0000"):
    folder = RunFolder(str(tmp_path), name)
    folder.write_json("run.json", {"wandb_id": "a"})
    folder.write("config.yml", to_yaml(config).encode())
    return folder


def final(folder):
    return read_checkpoint(folder, find_checkpoint(folder, "last"))


def test_run_segment__ends_at_its_rung_and_the_next_goes_on_as_if_it_had_not(tmp_path, config):
    """A trial stopped at epochs 2 and 3 of 6 follows the schedule of 6 epochs, bit for bit."""
    whole, segments = trial(tmp_path, config, "whole"), trial(tmp_path, config, "segments")
    assert run_segment(whole, 6, "disabled", {}) == {"state": "reached", "why": ""}
    for rung in (2, 3, 6):
        assert run_segment(segments, rung, "disabled", {})["state"] == "reached"
        assert segments.has("summary.json") == (rung == 6)
        if rung < 6:
            assert final(segments).step == rung * 2
    a, b = final(whole), final(segments)
    assert all(torch.equal(weight, b.model[name]) for name, weight in a.model.items())
    rates = [[r["learning_rate"] for r in folder.metrics()] for folder in (whole, segments)]
    assert rates[0] == rates[1] and len(rates[0]) == 6


def test_run_segment__that_had_ended_when_the_driver_died_ends_again_without_training(
    tmp_path, config, monkeypatch
):
    folder = trial(tmp_path, config)
    run_segment(folder, 2, "disabled", {})
    before = folder.metrics()
    monkeypatch.setattr(train_loop.Training, "take_step", None)
    assert run_segment(folder, 2, "disabled", {})["state"] == "reached"
    assert folder.metrics() == before and final(folder).step == 4


def test_run_segment__a_collapsed_trial_says_so(tmp_path, config, monkeypatch):
    alike = Verification({"eer": 50.0, "min_dcf": 1.0}, torch.ones(4, 4).numpy(), {})
    monkeypatch.setattr("sslsv.training.validation.verify", lambda embedder, trials, replicates: alike)
    folder = trial(tmp_path, apply_overrides(config, ["train.collapse.action=stop"]))
    for _ in range(2):  # the second time as after a restart
        ended = run_segment(folder, 4, "disabled", {})
        assert ended["state"] == "collapsed" and "have collapsed at step 2" in ended["why"]


def test_run_segment__a_mistake_that_would_come_again_is_a_failed_trial(tmp_path, config):
    wild = apply_overrides(config, ["optimizer={name: sgd, learning_rate: 1e30}"])
    folder = trial(tmp_path, wild)
    ended = run_segment(folder, 4, "disabled", {})
    assert ended["state"] == "failed" and "learning_rate" in ended["why"] and "\n" not in ended["why"]
    assert not list_checkpoints(folder)


def test_run_segment__a_crash_is_raised_and_leaves_its_traceback(tmp_path, config, monkeypatch):
    folder = trial(tmp_path, config)

    def crash(self, batch):
        raise RuntimeError("no more memory")

    with monkeypatch.context() as patch:
        patch.setattr(train_loop.Training, "take_step", crash)
        with pytest.raises(RuntimeError):
            run_segment(folder, 2, "disabled", {})
    assert "RuntimeError: no more memory" in folder.read("failure.txt").decode()
    assert run_segment(folder, 2, "disabled", {})["state"] == "reached"
    assert not folder.has("failure.txt")


def test_run_segment__a_fault_of_the_storage_is_no_fault_of_the_trial(tmp_path, config, monkeypatch):
    folder = trial(tmp_path, config)

    def fail(*arguments):
        raise OSError("the disk is away")

    for owner, name in ((train_loop, "open_trial_sets"), (train_loop.Training, "take_step")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            ended = run_segment(folder, 2, "disabled", {})
        assert ended["state"] == "interrupted" and "the disk is away" in ended["why"]
        assert "OSError: the disk is away" in folder.read("failure.txt").decode()
    assert run_segment(folder, 2, "disabled", {})["state"] == "reached"


@pytest.mark.parametrize(
    ("is_system_error", "state"), [(False, "failed"), (True, "interrupted")], ids=["mistake", "storage"]
)
def test_run_segment__several_workers_fail_without_advice_and_log_as_the_sweep_says(
    tmp_path, config, monkeypatch, is_system_error, state
):
    def fit(config, *ignored, until_epoch):
        assert (config.run.wandb, until_epoch) == ("offline", 2)
        return {
            "error": "worker 1 failed: it broke; the same command goes on",
            "is_system_error": is_system_error,
        }

    monkeypatch.setattr("sslsv.search.trial.fit", fit)
    several = apply_overrides(config, ["resources.workers=2"])
    ended = run_segment(trial(tmp_path, several), 2, "offline", {})
    assert ended == {"state": state, "why": "worker 1 failed: it broke"}
