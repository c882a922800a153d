"""Legs of a trial in this process, its batches made without Ray."""

import dataclasses
import json

import pytest
import torch

from sslsv.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    LabelFreeConfig,
    ResourcesConfig,
    RunConfig,
    TrainConfig,
    to_yaml,
)
from sslsv.data.pipeline import plain_batches
from sslsv.encoders import ThinResNet34
from sslsv.evaluation.verification import Verification
from sslsv.models import SimCLR
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.search.trial import Place, run_leg
from sslsv.training import loop as train_loop
from sslsv.training.optim import OptimizerConfig
from sslsv.training.schedules import ScheduleConfig

PLACE = Place(has_gpu=False, threads=1, wandb_mode="disabled", environment={})


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    def batches(plan, maker, first, last, *, rank, world_size, **resources):
        return plain_batches(plan, maker, first, last, rank=rank, world_size=world_size)

    monkeypatch.setattr(train_loop, "train_batches", batches)
    monkeypatch.setattr(train_loop.ray, "put", lambda value: value)


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


def test_run_leg__ends_at_its_rung_and_the_next_goes_on_as_if_it_had_not(tmp_path, config):
    """Stopped at epochs 2 and 3 of 6 it has followed the schedule of 6 epochs, bit for bit."""
    whole, legs = trial(tmp_path, config, "whole"), trial(tmp_path, config, "legs")
    assert run_leg(whole, 6, PLACE, lambda: None) == {"state": "reached", "why": ""}
    reports = []
    for rung in (2, 3, 6):
        assert run_leg(legs, rung, PLACE, lambda: reports.append(1))["state"] == "reached"
        assert legs.has("summary.json") == (rung == 6) and legs.has("report.html")
        if rung < 6:
            assert final(legs).step == rung * 2
    assert len(reports) == 6
    a, b = final(whole), final(legs)
    assert all(torch.equal(weight, b.model[name]) for name, weight in a.model.items())
    rates = [[r["learning_rate"] for r in folder.metrics()] for folder in (whole, legs)]
    assert rates[0] == rates[1] and len(rates[0]) == 6


def test_run_leg__that_had_ended_when_the_driver_died_ends_again_without_training(tmp_path, config):
    folder = trial(tmp_path, config)
    run_leg(folder, 2, PLACE, lambda: None)
    before = folder.metrics()
    reports = []
    assert run_leg(folder, 2, PLACE, lambda: reports.append(1))["state"] == "reached"
    assert reports == [] and folder.metrics() == before and final(folder).step == 4


def test_run_leg__killed_inside_it_goes_on_from_the_last_checkpoint(tmp_path, config):
    whole, killed = trial(tmp_path, config, "whole"), trial(tmp_path, config, "killed")
    run_leg(whole, 4, PLACE, lambda: None)

    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_leg(killed, 4, PLACE, die)
    assert final(killed).step == 2
    run_leg(killed, 4, PLACE, lambda: None)
    assert [r["eer"] for r in killed.metrics()] == [r["eer"] for r in whole.metrics()]


def test_run_leg__a_collapsed_trial_says_so(tmp_path, config, monkeypatch):
    alike = Verification({"eer": 50.0, "min_dcf": 1.0}, torch.ones(4, 4).numpy(), {})
    monkeypatch.setattr("sslsv.training.validation.verify", lambda embedder, trials: alike)
    stopping = dataclasses.replace(config.train.collapse, action="stop")
    folder = trial(
        tmp_path, dataclasses.replace(config, train=dataclasses.replace(config.train, collapse=stopping))
    )
    for _ in range(2):  # again after a restart, too
        ended = run_leg(folder, 4, PLACE, lambda: None)
        assert ended["state"] == "collapsed" and "have collapsed at step 2" in ended["why"]


def test_run_leg__a_mistake_that_would_come_again_is_a_failed_trial(tmp_path, config):
    wild = dataclasses.replace(config, optimizer=OptimizerConfig(name="sgd", learning_rate=1e30))
    ended = run_leg(trial(tmp_path, wild), 4, PLACE, lambda: None)
    assert ended["state"] == "failed" and "learning_rate" in ended["why"] and "\n" not in ended["why"]


def test_run_leg__a_crash_is_raised_and_leaves_its_traceback(tmp_path, config, monkeypatch):
    folder = trial(tmp_path, config)

    def crash(self, batch):
        raise RuntimeError("no more memory")

    with monkeypatch.context() as patch:
        patch.setattr(train_loop.Training, "take_step", crash)
        with pytest.raises(RuntimeError):
            run_leg(folder, 2, PLACE, lambda: None)
    assert "RuntimeError: no more memory" in folder.read("failure.txt").decode()
    assert run_leg(folder, 2, PLACE, lambda: None)["state"] == "reached"
    assert not folder.has("failure.txt")


@pytest.mark.parametrize("epochs", [6, 2], ids=["at a rung", "at the end"])
def test_run_leg__whose_last_record_was_lost_validates_again(tmp_path, config, epochs):
    settings = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    folder = trial(tmp_path, settings)
    run_leg(folder, 2, PLACE, lambda: None)
    *earlier, last = folder.metrics()
    for kept in (earlier, []):
        folder.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept).encode())
        assert run_leg(folder, 2, PLACE, lambda: None) == {"state": "reached", "why": ""}
        assert len(folder.metrics()) == len(kept) + 1 and final(folder).step == 4
        assert {key: folder.metrics()[-1][key] for key in ("step", "epoch", "eer")} == {
            "step": 4,
            "epoch": 2.0,
            "eer": last["eer"],
        }


def test_run_leg__a_fault_of_the_storage_is_no_fault_of_the_trial(tmp_path, config, monkeypatch):
    folder = trial(tmp_path, config)

    def fail(*arguments):
        raise OSError("the disk is away")

    for owner, name in ((train_loop, "open_trial_sets"), (train_loop.Training, "take_step")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            ended = run_leg(folder, 2, PLACE, lambda: None)
        assert ended["state"] == "interrupted" and "the disk is away" in ended["why"]
        assert "OSError: the disk is away" in folder.read("failure.txt").decode()
    assert run_leg(folder, 2, PLACE, lambda: None)["state"] == "reached"


def test_run_leg__a_value_error_leaves_its_traceback(tmp_path, config, monkeypatch):
    def fail(*arguments):
        raise ValueError("an odd shape")

    monkeypatch.setattr(train_loop.Training, "take_step", fail)
    folder = trial(tmp_path, config)
    assert run_leg(folder, 2, PLACE, lambda: None) == {"state": "failed", "why": "an odd shape"}
    text = folder.read("failure.txt").decode()
    assert "Traceback" in text and text.endswith("ValueError: an odd shape\n")


def test_run_leg__several_workers_log_as_the_place_says_and_fail_without_advice(
    tmp_path, config, monkeypatch
):
    jobs = []

    def train(config, folder, share, **extra):
        jobs.append(extra)
        return {"error": "training worker 1 failed: no memory; the same command goes on from the last one"}

    monkeypatch.setattr("sslsv.search.trial.fit", train)
    several = dataclasses.replace(config, resources=ResourcesConfig(workers=2))
    ended = run_leg(
        trial(tmp_path, several), 2, dataclasses.replace(PLACE, wandb_mode="offline"), lambda: None
    )
    assert ended == {"state": "failed", "why": "training worker 1 failed: no memory"}
    assert (jobs[0]["wandb_mode"], jobs[0]["until_epoch"]) == ("offline", 2)
    assert jobs[0]["identity"] == {"wandb_id": "a"}


def test_run_leg__a_fault_of_the_storage_of_several_workers_is_no_fault_of_the_trial(
    tmp_path, config, monkeypatch
):
    answer = {"error": "training worker 1 failed: No space left on device; the", "is_of_system": True}
    monkeypatch.setattr("sslsv.search.trial.fit", lambda *arguments, **extra: answer)
    several = dataclasses.replace(config, resources=ResourcesConfig(workers=2))
    assert run_leg(trial(tmp_path, several), 2, PLACE, lambda: None)["state"] == "interrupted"
