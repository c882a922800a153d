"""How many trials run at once and what each may take, worked out before anything starts.  Knows no Ray."""

import os
from dataclasses import dataclass, replace

from sslsv.config import Config, ResourcesConfig
from sslsv.settings import refuse_if

Resources = dict[str, float]  # what Ray calls them: CPU, GPU


@dataclass(frozen=True)
class Places:
    """What the cluster holds of a sweep."""

    at_once: int  # trials
    has_gpu: bool
    gpus: float  # of one training process
    threads: int  # of one training process on CPUs
    data_tasks: int  # of one trial, all its workers together

    def apply(self, config: Config) -> Config:
        """The settings with each trial's share in them."""
        resources = replace(
            config.resources, data_tasks=self.data_tasks, threads_per_worker=self.threads, gpu=self.has_gpu
        )
        return replace(config, resources=resources)

    def describe(self, resources: ResourcesConfig) -> str:
        """One line for the plan."""
        device = f"{self.gpus:g} GPU" if self.has_gpu else f"{self.threads} thread{'s' * (self.threads > 1)}"
        workers = "" if resources.most_workers == 1 else f"{resources.most_workers} workers with "
        return (
            f"{self.at_once} at once, each {workers}{device}, {resources.cpus_per_worker:g} CPUs, and in all "
            f"{self.data_tasks} data process{'es' * (self.data_tasks > 1)} of "
            f"{resources.cpus_per_data_task:g} CPUs"
        )


def find_places(
    resources: ResourcesConfig,
    has_gpu: bool,
    gpus_per_trial: float,
    free: Resources,
    nodes: list[Resources],
    trials: int,
    wanted: int | None,
) -> Places:
    """How many of the `trials` fit at once, or `wanted` of them if that many do.

    `free` is what the cluster has left, `nodes` what each machine has in all. Ray would let trials wait
    without a word for what never comes, and data processes starve beside trials that hold every CPU. Raises
    ValueError.
    """
    workers, per_worker, per_task = (
        resources.most_workers,
        resources.cpus_per_worker,
        resources.cpus_per_data_task,
    )
    refuse_if(
        workers > 1 and gpus_per_trial != 1.0,
        f"gpus_per_trial is {gpus_per_trial}, but a trial has {workers} workers (resources.workers), each of "
        "which takes a whole GPU; only trials with one worker can share one",
    )
    per_trial = workers * (per_worker + per_task)  # every worker draws on at least one data process
    fitting = int(free.get("CPU", 0.0) / per_trial + 1e-6)
    limit = f"{per_trial:g} of the {free.get('CPU', 0.0):g} free CPUs"
    if has_gpu:
        shares = sum(int(node.get("GPU", 0.0)) * int(1 / gpus_per_trial + 1e-6) for node in nodes)
        left = int(free.get("GPU", 0.0) / gpus_per_trial + 1e-6)
        by_gpu = min(shares, left) // workers
        if by_gpu < fitting:
            fitting, limit = by_gpu, f"{workers * gpus_per_trial:g} of the {free.get('GPU', 0.0):g} free GPUs"
    refuse_if(
        fitting < 1,
        f"a trial takes {limit}, so not one fits; lower resources.workers or what each reserves "
        "(resources.cpus_per_worker, resources.cpus_per_data_task)",
    )
    refuse_if(
        wanted is not None and not 1 <= wanted <= fitting,
        f"{wanted} trials at once are asked for, but each takes {limit}, so from 1 to {fitting} fit; lower "
        "--concurrent, or what a trial reserves (resources.cpus_per_worker, resources.cpus_per_data_task: "
        "they are only counted, not enforced)",
    )
    at_once = min(wanted or fitting, trials)
    cores = (os.cpu_count() or 1) if len(nodes) == 1 else int(sum(node.get("CPU", 0.0) for node in nodes))
    threads = resources.threads_per_worker or max(1, cores // (at_once * workers))
    refuse_if(
        not has_gpu and at_once * workers * threads > max(cores, at_once * workers),
        f"{at_once} trials at once with {workers} x {threads} threads (resources.threads_per_worker) want "
        f"{at_once * workers * threads} of {cores} cores, and threads that wait for each other make all of "
        "them several times slower; lower one of the three",
    )
    left_for_data = free.get("CPU", 0.0) - at_once * workers * per_worker
    data_tasks = int(left_for_data / per_task / at_once + 1e-6)
    data_tasks = max(min(resources.data_tasks or data_tasks, data_tasks), workers)
    return Places(at_once, has_gpu, gpus_per_trial, threads, data_tasks)
