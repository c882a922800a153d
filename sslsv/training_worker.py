"""The entry of a Ray Train worker: find the device and the threads, build the training, run it."""

import os
from typing import Any

import ray.train
import ray.train.torch
import torch

from sslsv.config import read_config
from sslsv.run_folder import RunFolder
from sslsv.train_loop import Training
from sslsv.validation import TrainingError


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
    config = read_config(job["config"])
    device = ray.train.torch.get_device() if job["has_gpu"] else torch.device("cpu")
    if device.type == "cpu":
        # Ray allows one thread; the cores of this machine are for its training workers to share.
        workers_here = ray.train.get_context().get_local_world_size()
        threads = (os.cpu_count() or 1) // workers_here
        torch.set_num_threads(config.resources.threads_per_worker or max(1, threads))
    else:
        torch.cuda.set_device(device)  # collectives of Python objects go through the current device
    return Training(
        config,
        RunFolder(job["storage"], job["name"]),
        device=device,
        board=job["board"],
        wandb_mode=job["wandb_mode"],
        report=ray.train.report,
    )
