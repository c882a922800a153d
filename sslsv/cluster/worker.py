"""The entry of a Ray Train worker: find the device and the threads, build the training, run it."""

import os
from dataclasses import replace
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.execution.context import get_train_context

from sslsv.cluster.capacity import fitting_data_tasks
from sslsv.cluster.shared_storage import check_sees_run
from sslsv.config import Config, read_config
from sslsv.runs.folder import RunFolder
from sslsv.training.loop import Training
from sslsv.training.validation import TrainingError, start_together

_reasons: list[str] = []  # why this process was asked to stop


def ask_to_stop(reason: str) -> None:
    """Run in a worker's process from outside: its training saves and ends after one of the next steps."""
    _reasons.append(reason)


def asked_to_stop() -> str | None:
    """Why this worker's training should stop early: it was asked to, or a machine of the run will go."""
    # The public get_preemption_info() is a round trip to an actor, and every worker must ask equally often.
    info = get_train_context().preemption_context.preemption_info
    if info is not None:
        return f"{len(info.preempted_node_to_ranks)} machine(s) will be taken away"
    return _reasons[0] if _reasons else None


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run the loop to its end; returns the summary, or a TrainingError as text.

    Raising it would count as a crash, and Ray would start the workers again.
    """
    try:
        return open_training(job).run()
    except TrainingError as error:
        return {"error": str(error)}


def open_training(job: dict[str, Any]) -> Training:
    """The training of a job (see `cluster.train`) on this worker's device, from where its folder says."""
    os.environ.update(job["environment"])
    config = with_data_tasks(read_config(job["config"]), job["cpus_of_others"], job["can_grow"])
    seconds = 60 * config.resources.hang_minutes
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = seconds
    device = ray.train.torch.get_device() if job["has_gpu"] else torch.device("cpu")
    if device.type == "cpu":
        # Ray allows one thread; the cores of this machine are for its training workers to share.
        workers_here = ray.train.get_context().get_local_world_size()
        threads = (os.cpu_count() or 1) // workers_here
        torch.set_num_threads(config.resources.threads_per_worker or max(1, threads))
    else:
        torch.cuda.set_device(device)  # collectives of Python objects go through the current device
    folder = RunFolder(job["storage"], job["name"])
    if "identity" in job:
        start_together(lambda: check_sees_run(folder, job["identity"]))
    return Training(
        config,
        folder,
        device=device,
        board=job["board"],
        wandb_mode=job["wandb_mode"],
        report=ray.train.report,
        asked_to_stop=asked_to_stop,
    )


def with_data_tasks(config: Config, cpus_of_others: float, can_grow: bool) -> Config:
    """The settings with as many data processes as the cluster, which may have changed, now has room for."""
    total = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    workers = ray.train.get_context().get_world_size()
    count = fitting_data_tasks(config.resources, workers, total - cpus_of_others, can_grow=can_grow)
    return replace(config, resources=replace(config.resources, data_tasks=count))
