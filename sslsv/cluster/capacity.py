"""Work out whether a request fits a machine or cluster, given all and free resources of each machine.

It does not use Ray: a machine is a dictionary of its resources, such as `{"CPU": 8.0, "GPU": 1.0}`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sslsv.config import ResourcesConfig

Machine = dict[str, float]


class CapacityError(ValueError):
    """The machine or cluster can't hold what is asked for."""


def with_device(resources: ResourcesConfig, machines: Iterable[Machine]) -> ResourcesConfig:
    """Return the request with `gpu` decided: as set, else whether the machines have one."""
    has_gpu = total_of(machines, "GPU") >= 1 if resources.gpu is None else resources.gpu
    return replace(resources, gpu=has_gpu)


def room_for(resources: ResourcesConfig, machines: Sequence[Machine], more_cpus: float = 0.0) -> int:
    """Return how many workers fit, each on one machine, with CPUs for a data process on any machine.

    `more_cpus` are further CPUs for data processes, beside those of `machines`.
    """
    own = worker_bundle(resources)
    slots = sum(min(int(each.get(kind, 0.0) / own[kind] + 1e-6) for kind in own) for each in machines)
    cpus = total_of(machines, "CPU") + more_cpus
    return min(slots, int(cpus / (resources.cpus_per_worker + resources.cpus_per_data_task) + 1e-6))


def worker_bundle(resources: ResourcesConfig) -> Machine:
    """Return what one training worker reserves."""
    return {"CPU": resources.cpus_per_worker} | ({"GPU": 1.0} if resources.gpu else {})


def bundles_of(resources: ResourcesConfig, workers: int) -> list[Machine]:
    """Return the request to an autoscaler: workers with a data process each, then further data processes."""
    cpus = resources.cpus_per_data_task
    together = worker_bundle(resources) | {"CPU": resources.cpus_per_worker + cpus}
    return [together] * workers + [{"CPU": cpus}] * ((resources.data_tasks or 0) - workers)


def total_of(machines: Iterable[Machine], kind: str) -> float:
    """Return the sum of one resource, such as "CPU", over the machines."""
    return sum(machine.get(kind, 0.0) for machine in machines)
