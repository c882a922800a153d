"""Run the training of one Ray Train worker: set the device and the threads, build the loop, run it.

The first worker also watches the cluster. If a machine of the run will be removed, or more workers would fit,
all workers save and stop, and the command starts new ones.
"""

import contextlib
import os
import threading
import time
import traceback
from dataclasses import replace
from datetime import timedelta
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train.collective import broadcast_from_rank_zero
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from sslsv.cluster.connect import Cluster, bundles_of, cluster_state, request_machines, room_for, total_of
from sslsv.cluster.neighbours import watch_neighbours
from sslsv.config import ResourcesConfig, read_config
from sslsv.ops import distributed
from sslsv.runs.environment import usable_cpus
from sslsv.runs.folder import HELD, MARK, RunFolder
from sslsv.training.loop import Training
from sslsv.training.validation import TrainingError, start_together

LOOK_SECONDS = 5.0  # between two checks for machines that will be removed
STORAGE_SECONDS = 30.0  # a network file system may show a new file late


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run the task of a job (see `fit`) on its training; return its result, or a TrainingError as text."""
    try:
        task = job["task"] or Training.run
        result: dict[str, Any] = task(open_training(job), **job["arguments"])
    except TrainingError as error:  # not a crash, so no restart
        return {"error": str(error), "is_system_error": is_io_error(error)}
    except Exception as error:
        # Ray's own message has only the first and last 500 characters of the traceback.
        error.__notes__ = [traceback.format_exc()]  # type: ignore[attr-defined]  # Python 3.10 has no add_note
        raise
    return result


def is_io_error(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, came from storage or network, so that a retry may succeed."""
    return error is not None and (isinstance(error, OSError) or is_io_error(error.__cause__))


def open_training(job: dict[str, Any]) -> Training:
    """Build the training of a job on this worker's device, from the state in its folder."""
    os.environ.update(job["environment"])
    config = read_config(job["config"])
    resources = config.resources
    if resources.data_tasks is None:  # use the CPUs that the workers leave free
        free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        resources = replace(resources, data_tasks=max(1, int(free / resources.cpus_per_data_task + 1e-6)))
        config = replace(config, resources=resources)
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 60 * resources.hang_minutes
    device = ray.train.torch.get_device() if resources.gpu else torch.device("cpu")
    if device.type == "cpu":
        # Ray sets one thread. Here, the training workers of a machine share its cores.
        threads = usable_cpus() // ray.train.get_context().get_local_world_size()
        torch.set_num_threads(resources.threads_per_worker or max(1, threads))
        watch_neighbours()
    else:
        torch.cuda.set_device(device)  # collectives of Python objects use the current device
    join_process_group(resources)
    folder = RunFolder.at(job["location"])
    start_together(lambda: check_sees_run(folder, job["mark"]))
    group = ray.util.get_current_placement_group()
    if distributed.is_main() and group is not None:
        with contextlib.suppress(OSError):  # a full disk is reported at the first checkpoint
            folder.write(HELD, group.id.hex().encode())
    watch = Watch(resources, job, distributed.gather_objects(ray.get_runtime_context().get_node_id()))
    return Training(
        config,
        folder,
        device=device,
        wandb_mode=job["wandb_mode"],
        asked_to_stop=lambda: watch.reason,
    )


def join_process_group(resources: ResourcesConfig) -> None:
    """Form PyTorch's process group of all workers: rank 0 opens a port and sends it to the others."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if world_size > 1:
        timeout = timedelta(minutes=resources.hang_minutes)
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        store = TCPStore(host, 0, world_size, True, timeout, wait_for_workers=False) if rank == 0 else None
        host, port = broadcast_from_rank_zero((host, store.port) if store else None)
        store = store or TCPStore(host, port, world_size, False, timeout)
        backend = "nccl" if resources.gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def check_sees_run(folder: RunFolder, mark: str, patience_seconds: float = STORAGE_SECONDS) -> None:
    """Raise ValueError unless this machine sees the mark that the command has written into the run folder.

    A machine with a local disk at that path would restart the run, and its checkpoints would be lost with it.
    """
    deadline = time.monotonic() + patience_seconds
    while not (folder.has(MARK) and folder.read(MARK).decode() == mark):
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{folder.location} on this machine is not the run folder that the command has written: "
                "run.storage must be a folder that all machines of the cluster mount, or a URI such as "
                "s3://bucket/runs"
            )
        time.sleep(0.5)


class Watch:
    """Watch the cluster in a thread of the first worker; `reason` says why to stop early, or is None."""

    def __init__(self, resources: ResourcesConfig, job: dict[str, Any], nodes: list[str]) -> None:
        self.resources, self.job, self.nodes = resources, job, nodes  # nodes: the machine of each worker
        self.reason: str | None = None
        if distributed.is_main():
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        max_count, last_check = self.job["counts"][-1], time.monotonic()
        while self.reason is None:
            time.sleep(LOOK_SECONDS)
            # Repeat the request, because other commands, and Ray itself for its running workers, replace it.
            request_machines(bundles_of(self.resources, max_count))
            with contextlib.suppress(RayError):  # a cluster too busy to answer is queried again
                cluster = cluster_state()
                num_leaving = len(cluster.leaving & set(self.nodes))
                if num_leaving:
                    self.reason = f"{num_leaving} machine(s) will be taken away"
                elif time.monotonic() - last_check >= 60 * self.resources.resize_minutes:
                    last_check = time.monotonic()
                    self.reason = self.reason_to_grow(cluster)

    def reason_to_grow(self, cluster: Cluster) -> str | None:
        """Return why to restart with more workers; None also if a restart on these machines gained none.

        CPUs of the run's data tasks count as free.
        """
        resources, count, free = self.resources, len(self.nodes), list(cluster.free.values())
        used_cpus = total_of(cluster.machines.values(), "CPU") - total_of(free, "CPU")
        data_cpus = resources.cpus_per_data_task * (resources.data_tasks or 1)
        data_cpus = min(data_cpus, used_cpus - count * resources.cpus_per_worker)
        room = count + room_for(resources, free, data_cpus - count * resources.cpus_per_data_task)
        new_count = max((n for n in self.job["counts"] if n <= room), default=0)
        if new_count <= count or sorted(cluster.machines) == self.job["full_machines"]:
            return None
        return f"there is room for {new_count} training workers instead of {count}"
