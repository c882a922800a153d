"""Run the training of one Ray Train worker: find the device and the threads, build the loop, run it.

The first worker also watches the cluster: where a machine of the run will be taken away, or more workers
would fit, all of them save and end, and the command starts others.
"""

import contextlib
import os
import threading
import time
from dataclasses import replace
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError

from sslsv.cluster.capacity import Machine, fitting_data_tasks, fitting_workers, total_of, worker_bundle
from sslsv.cluster.connect import Cluster, look
from sslsv.config import Config, ResourcesConfig, read_config
from sslsv.ops import distributed
from sslsv.runs.display import Notices
from sslsv.runs.folder import RunFolder
from sslsv.training.interruption import Interrupted
from sslsv.training.loop import Training
from sslsv.training.validation import TrainingError, start_together

LOOK_SECONDS = 2.0  # between two looks for machines that will go
STORAGE_SECONDS = 30.0  # a network file system may show a new file late
HELD = "ray/held"  # the reservation of a run's workers, by name


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job's `worker`; a TrainingError and an interruption are returned as text.

    Raised, they would count as crashes.
    """
    try:
        result: dict[str, Any] = job["worker"](job)
        return result
    except TrainingError as error:
        return {"error": str(error)}
    except Interrupted as error:
        return {"interrupted": str(error)}


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run the loop to its end and return the summary."""
    return open_training(job).run()


def open_training(job: dict[str, Any]) -> Training:
    """Build the training of a job (see `fit`) on this worker's device, from where its folder says."""
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
    if distributed.is_main():
        group = ray.util.get_current_placement_group()
        folder.write(HELD, group.id.hex().encode() if group is not None else b"")
    watch = Watch(config.resources, job, distributed.gather_objects(ray.get_runtime_context().get_node_id()))
    return Training(
        config,
        folder,
        device=device,
        board=Notices(folder),
        wandb_mode=job["wandb_mode"],
        report=ray.train.report,
        asked_to_stop=lambda: watch.reason,
    )


def with_data_tasks(config: Config, cpus_of_others: float, can_grow: bool) -> Config:
    """Set as many data processes as the cluster, which may have changed, now has room for."""
    total = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    workers = ray.train.get_context().get_world_size()
    count = fitting_data_tasks(config.resources, workers, total - cpus_of_others, can_grow=can_grow)
    return replace(config, resources=replace(config.resources, data_tasks=count))


def check_sees_run(
    folder: RunFolder, identity: dict[str, Any], patience_seconds: float = STORAGE_SECONDS
) -> None:
    """Raise ValueError unless this machine sees the run.json that the command has written.

    A machine that joined after the command looked, and has a disk of its own in that place, would begin the
    run anew and take its checkpoints with it when it goes.
    """
    deadline = time.monotonic() + patience_seconds
    while folder.is_local and not (folder.has("run.json") and folder.read_json("run.json") == identity):
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{folder.location} on this machine is not the run folder that the command has written: "
                "run.storage must be a folder that all machines of the cluster mount, or a URI such as "
                "s3://bucket/runs"
            )
        time.sleep(0.5)


class Watch:
    """Says why the workers should stop early: `reason`, or None.  The first worker alone looks, in a thread.

    `nodes` is the machine of each worker.
    """

    def __init__(self, resources: ResourcesConfig, job: dict[str, Any], nodes: list[str]) -> None:
        self.resources, self.job, self.nodes = resources, job, nodes
        self.reason: str | None = None
        if distributed.is_main():
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        last = time.monotonic()
        while self.reason is None:
            time.sleep(LOOK_SECONDS)
            with contextlib.suppress(RayError):  # a cluster too busy to answer is asked again
                cluster = look()
                going = len(cluster.leaving & set(self.nodes))
                if going:
                    self.reason = f"{going} machine(s) will be taken away"
                elif time.monotonic() - last >= 60 * self.resources.resize_minutes:
                    last = time.monotonic()
                    self.reason = self.reason_to_grow(cluster)

    def reason_to_grow(self, cluster: Cluster) -> str | None:
        """Say that more workers would fit in what is free and what these workers and their data hold."""
        running, has_gpu, counts = len(self.nodes), self.job["has_gpu"], self.job["counts"]
        machines = {name: dict(machine) for name, machine in cluster.free.items()}
        for name in self.nodes:
            add(machines.get(name, {}), worker_bundle(self.resources, has_gpu))
        everything = total_of(cluster.machines.values(), "CPU")
        of_data = self.resources.cpus_per_data_task * fitting_data_tasks(self.resources, running, everything)
        cpus = min(total_of(machines.values(), "CPU") + of_data, everything)
        count = fitting_workers(self.resources, counts, has_gpu, list(machines.values()), cpus)
        if count <= running or sorted(machines) == self.job["futile"]:
            return None
        return f"there is room for {count} training workers instead of {running}"


def add(machine: Machine, more: Machine) -> None:
    """Add resources to those of a machine."""
    for kind, amount in more.items():
        machine[kind] = machine.get(kind, 0.0) + amount
