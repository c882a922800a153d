"""One leg of a trial, as it runs in a process of its own: train from the newest checkpoint up to a rung."""

import contextlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sslsv.cluster.capacity import Share
from sslsv.cluster.fit import fit
from sslsv.cluster.worker import open_training
from sslsv.config import Config, read_config
from sslsv.ops import distributed
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import WandbMode
from sslsv.training import validation
from sslsv.training.loop import Training
from sslsv.training.validation import TrainingError


class RungReached(Exception):
    """Raised on every worker out of the report of a validation: the leg is over and its checkpoint there."""


@dataclass(frozen=True)
class Place:
    """What every trial's process is given."""

    has_gpu: bool
    threads: int  # of a training process on CPUs
    wandb_mode: WandbMode
    environment: dict[str, str]


def run_leg(folder: RunFolder, until_epoch: int, place: Place, report: Callable[[], None]) -> dict[str, str]:
    """Train the trial of a run folder up to an epoch; returns its `state` and `why`.

    `report` is called after every validation, when its checkpoint is written.  The state is reached,
    collapsed, failed (a mistake that another try would meet again) or interrupted (a fault of storage or
    network, which may pass).  Anything else is raised.  What ended it is in failure.txt, with its traceback.
    """
    os.environ.update(place.environment)
    try:
        config = read_config(folder.read("config.yml").decode())
        if folder.has("failure.txt"):
            folder.delete("failure.txt")  # of an earlier try
        if config.resources.workers == 1:
            _train_alone(config, folder, until_epoch, place, report)
        else:
            _train_together(config, folder, until_epoch, place)
        last = folder.metrics()[-1]
    except Exception as error:  # of any kind: noted, because Ray shows the user no more than its last line
        if not isinstance(error, TrainingError) or error.__cause__ is not None:  # else its sentence says all
            with contextlib.suppress(OSError):  # the storage may be what has failed
                folder.write("failure.txt", traceback.format_exc().encode())
        why = " ".join(str(error).split()) or type(error).__name__
        if is_of_system(error):
            return {"state": "interrupted", "why": why}
        if isinstance(error, TrainingError | ValueError):
            return {"state": "failed", "why": why}
        raise
    if last.get("has_collapsed"):
        return {"state": "collapsed", "why": str(last["notice"])}
    return {"state": "reached", "why": ""}


def is_of_system(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, came from the system: storage or network, which may be back."""
    return error is not None and (isinstance(error, OSError) or is_of_system(error.__cause__))


def train_until(training: Training, until_epoch: int) -> None:
    """Train up to an epoch, at which there is a validation; to the end of training if it is the last one."""
    last_step = until_epoch * training.plan.steps_per_epoch
    is_end = until_epoch >= training.config.train.epochs
    is_there = training.state.step >= last_step  # already, when it was interrupted
    if is_there or training.state.stop_reason is not None:
        mend_metrics(training)
    report = training.report

    def report_and_leave(record: dict[str, Any]) -> None:
        training.checkpoints.wait()  # a scheduler may copy it, or end this process, as soon as it is told
        report(record)
        if record["step"] >= last_step and not is_end and training.state.stop_reason is None:
            raise RungReached

    if is_there and not is_end:
        if training.log is not None:
            training.log.close()
        return
    training.report = report_and_leave
    with contextlib.suppress(RungReached):
        training.run()


def mend_metrics(training: Training) -> None:
    """Validate the newest checkpoint again where its record is missing, as a power cut may leave it.

    Without the record the trial would count as worthless.  All workers must call it together.
    """
    state, config = training.state, training.config
    epoch = state.step / training.plan.steps_per_epoch
    is_recorded = training.log is not None and any(
        (record["step"], record["epoch"]) == (state.step, epoch) and config.evaluation.chosen_by in record
        for record in training.folder.metrics()
    )
    if distributed.broadcast_object(is_recorded):
        return
    record = {"step": state.step, "epoch": epoch, "seconds": state.seconds}
    record |= validation.validate(training.embedder, training.validation, training.probe, state, config)
    validation.reason_to_stop(record, state, config)  # marks it where the model has collapsed
    if training.log is not None:
        training.log.write(record)


def _train_alone(
    config: Config, folder: RunFolder, until_epoch: int, place: Place, report: Callable[[], None]
) -> None:
    """Train in this process."""
    if not place.has_gpu:
        torch.set_num_threads(place.threads)
    device = torch.device("cuda" if place.has_gpu else "cpu")
    training = Training(
        config, folder, device=device, wandb_mode=place.wandb_mode, report=lambda record: report()
    )
    train_until(training, until_epoch)


def _train_together(config: Config, folder: RunFolder, until_epoch: int, place: Place) -> None:
    """Train in several workers, by Ray Train."""
    share = Share(place.has_gpu, config.resources.data_tasks or config.resources.most_workers)
    result = fit(
        config,
        folder,
        share,
        worker=_worker,
        until_epoch=until_epoch,
        wandb_mode=place.wandb_mode,  # of the user's own process; this one runs in another folder
        identity=folder.read_json("run.json"),
    )
    if "error" in result:
        raise TrainingError(_reason(result["error"])) from (
            OSError(result["error"]) if result.get("is_of_system") else None
        )


def _reason(sentence: str) -> str:
    """A sentence of `fit` without its advice, which is for the command that trains one run."""
    return sentence.partition("; the same command goes on")[0]


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker, as `training_worker.train_worker`, but up to the rung only."""
    try:
        train_until(open_training(job), job["until_epoch"])
    except TrainingError as error:
        return {"error": str(error), "is_of_system": is_of_system(error)}
    return {}
