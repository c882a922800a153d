"""Segments of a trial in this process, its batches made without Ray."""

import dataclasses

import pytest
import torch

from sslsv.config import (
    Config,
    EvaluationConfig,
    LabelFreeConfig,
    OptimizerConfig,
    ResourcesConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    to_yaml,
)
from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.verification import Verification
from sslsv.models.simclr import SimCLR
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import RunLog
from sslsv.search.trial import run_segment
from sslsv.training import loop as train_loop

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def config(demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=SimCLR.Config(crop_seconds=0.3, temperature=0.1),
        optimizer=OptimizerConfig(schedule=ScheduleConfig(name="cosine")),
        train=TrainConfig(epochs=6, batch_size=10),
        evaluation=EvaluationConfig(
            held_out_speakers=3, every_epochs=1, label_free=LabelFreeConfig(utterances=0)
        ),
        run=RunConfig(tensorboard=False),
    )


def trial(tmp_path, config, name="0000"):
    folder = RunFolder(str(tmp_path), name)
    folder.write_json("run.json", {"wandb_id": "a"})
    folder.write("config.yml", to_yaml(config).encode())
    return folder


def final(folder):
    return read_checkpoint(folder, find_checkpoint(folder, "last"))


def test_run_segment__ends_at_its_rung_and_the_next_goes_on_as_if_it_had_not(tmp_path, config):
    """Stopped at epochs 2 and 3 of 6 it has followed the schedule of 6 epochs, bit for bit."""
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


def test_run_segment__killed_inside_it_goes_on_from_the_last_checkpoint(tmp_path, config, monkeypatch):
    whole, killed = trial(tmp_path, config, "whole"), trial(tmp_path, config, "killed")
    run_segment(whole, 4, "disabled", {})

    def die(self, record):
        if record["step"] > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            RunLog, "write", lambda self, record, write=RunLog.write: (write(self, record), die(self, record))
        )
        run_segment(killed, 4, "disabled", {})
    assert final(killed).step == 2
    run_segment(killed, 4, "disabled", {})
    assert [r["eer"] for r in killed.metrics()] == [r["eer"] for r in whole.metrics()]


def test_run_segment__a_collapsed_trial_says_so(tmp_path, config, monkeypatch):
    alike = Verification({"eer": 50.0, "min_dcf": 1.0}, torch.ones(4, 4).numpy(), {})
    monkeypatch.setattr("sslsv.training.validation.verify", lambda embedder, trials: alike)
    stopping = dataclasses.replace(config.train.collapse, action="stop")
    folder = trial(
        tmp_path, dataclasses.replace(config, train=dataclasses.replace(config.train, collapse=stopping))
    )
    for _ in range(2):  # again after a restart, too
        ended = run_segment(folder, 4, "disabled", {})
        assert ended["state"] == "collapsed" and "have collapsed at step 2" in ended["why"]


def test_run_segment__a_mistake_that_would_come_again_is_a_failed_trial(tmp_path, config):
    wild = dataclasses.replace(config, optimizer=OptimizerConfig(name="sgd", learning_rate=1e30))
    ended = run_segment(trial(tmp_path, wild), 4, "disabled", {})
    assert ended["state"] == "failed" and "learning_rate" in ended["why"] and "\n" not in ended["why"]


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
    ("answer", "expected"),
    [
        (
            {"error": "training worker 1 failed: no memory; the same command goes on", "is_of_system": False},
            {"state": "failed", "why": "training worker 1 failed: no memory"},
        ),
        (
            {"error": "training worker 1 failed: No space left on device", "is_of_system": True},
            {"state": "interrupted", "why": "training worker 1 failed: No space left on device"},
        ),
    ],
)
def test_run_segment__several_workers_fail_without_advice_and_log_as_the_sweep_says(
    tmp_path, config, monkeypatch, answer, expected
):
    calls = []
    monkeypatch.setattr(
        "sslsv.search.trial.fit",
        lambda config, *ignored, until_epoch: calls.append((config, until_epoch)) or answer,
    )
    several = dataclasses.replace(config, resources=ResourcesConfig(workers=2))
    assert run_segment(trial(tmp_path, several), 2, "offline", {}) == expected
    assert [(config.run.wandb, until_epoch) for config, until_epoch in calls] == [("offline", 2)]
