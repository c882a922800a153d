"""One leg of a trial, as it runs in a process of its own: train from the newest checkpoint up to a rung."""

import contextlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sslsv import cluster
from sslsv.capacity import Share
from sslsv.config import Config, read_config
from sslsv.run_folder import RunFolder
from sslsv.run_log import WandbMode
from sslsv.train_loop import Training
from sslsv.training_worker import asked_to_stop
from sslsv.validation import TrainingError


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
    """Train the trial of a run folder up to an epoch; returns `state` (reached, collapsed, failed) and `why`.

    `report` is called after every validation, when its checkpoint is written. A mistake that another try
    would meet again is a failed trial; anything else is raised, with the traceback in failure.txt.
    """
    os.environ.update(place.environment)
    config = read_config(folder.read("config.yml").decode())
    if folder.has("failure.txt"):
        folder.delete("failure.txt")  # of an earlier try
    try:
        if config.resources.workers == 1:
            _train_alone(config, folder, until_epoch, place, report)
        else:
            _train_together(config, folder, until_epoch, place)
    except (TrainingError, ValueError) as error:
        return {"state": "failed", "why": " ".join(str(error).split())}
    except Exception:  # raised again: only noted, because Ray shows the user no more than its last line
        folder.write("failure.txt", traceback.format_exc().encode())
        raise
    last = folder.metrics()[-1]
    if last.get("has_collapsed"):
        return {"state": "collapsed", "why": str(last["notice"])}
    return {"state": "reached", "why": ""}


def train_until(training: Training, until_epoch: int) -> None:
    """Train up to an epoch, at which there is a validation; to the end of training if it is the last one."""
    last_step = until_epoch * training.plan.steps_per_epoch
    is_end = until_epoch >= training.config.train.epochs
    report = training.report

    def report_and_leave(record: dict[str, Any]) -> None:
        training.checkpoints.wait()  # a scheduler may copy it, or end this process, as soon as it is told
        report(record)
        if record["step"] >= last_step and not is_end and training.state.stop_reason is None:
            raise RungReached

    if training.state.step >= last_step and not is_end:  # it was there already when it was interrupted
        if training.log is not None:
            training.log.close()
        return
    training.report = report_and_leave
    with contextlib.suppress(RungReached):
        training.run()


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
    result = cluster.train(config, folder, share, worker=_worker, until_epoch=until_epoch)
    if "error" in result:
        raise TrainingError(result["error"])


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker, as `training_worker.train_worker`, but up to the rung only."""
    import ray.train.torch

    os.environ.update(job["environment"])
    config = read_config(job["config"])
    device = ray.train.torch.get_device() if job["has_gpu"] else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(config.resources.threads_per_worker or 1)
    else:
        torch.cuda.set_device(device)  # collectives of Python objects go through the current device
    folder = RunFolder(job["storage"], job["name"])
    try:
        training = Training(
            config,
            folder,
            device=device,
            wandb_mode=job["wandb_mode"],
            report=ray.train.report,
            asked_to_stop=asked_to_stop,
        )
        train_until(training, job["until_epoch"])
    except TrainingError as error:
        return {"error": str(error)}
    return {}
