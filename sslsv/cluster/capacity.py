"""Work out whether a request fits a machine or cluster, given what each machine has and what is free.

Knows no Ray: a machine is a dictionary of its resources, such as `{"CPU": 8.0, "GPU": 1.0}`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sslsv.config import ResourcesConfig

Machine = dict[str, float]


class CapacityError(ValueError):
    """The machine or cluster can't hold what is asked for."""


@dataclass(frozen=True)
class Share:
    """What a run may take: workers on GPUs or not, and data processes beside them."""

    has_gpu: bool
    data_tasks: int


def find_share(resources: ResourcesConfig, machines: list[Machine], free: list[Machine]) -> Share:
    """Decide whether the GPUs are used and how many data processes fit.

    `machines` is what each machine has in all, `free` what it has left.  Ray would wait without a word for
    what never comes: training workers that hold every CPU leave none to the data.  Of a range of workers the
    lower end must fit.  Raises CapacityError.
    """
    workers, has_gpu = resources.fewest_workers, wants_gpu(resources, machines)
    fitting, fitting_alone = (room_for(resources, has_gpu, there) for there in (free, machines))
    if fitting < workers:
        raise CapacityError(
            f"{workers} training worker(s) (resources.workers) take {resources.cpus_per_worker:g} CPUs each "
            f"(resources.cpus_per_worker){' and a GPU' if has_gpu else ''} on one machine, and "
            f"{resources.cpus_per_data_task:g} CPUs for a data process (resources.cpus_per_data_task), but "
            f"{len(machines)} machine(s) with {total_of(machines, 'CPU'):g} CPUs and "
            f"{total_of(machines, 'GPU'):g} GPUs in all have room for {fitting_alone}"
            + (f", beside other jobs for {fitting}; wait for them, or " if fitting < fitting_alone else "; ")
            + "lower resources.workers, or the CPUs reserved for each (they are only counted, not enforced)"
            + (", or set resources.gpu=false to train on CPUs" if has_gpu else "")
        )
    left = total_of(free, "CPU") - workers * resources.cpus_per_worker
    data_tasks = max(1, int(left / resources.cpus_per_data_task + 1e-6))
    return Share(has_gpu, min(resources.data_tasks or data_tasks, data_tasks))


def room_for(
    resources: ResourcesConfig, has_gpu: bool, machines: list[Machine], more_cpus: float = 0.0
) -> int:
    """Return how many workers have slots on the machines, and CPUs for a data process each anywhere.

    `more_cpus` is what their data may have beside the CPUs of `machines`.
    """
    cpus = total_of(machines, "CPU") + more_cpus
    by_cpu = int(cpus / (resources.cpus_per_worker + resources.cpus_per_data_task) + 1e-6)
    return min(by_cpu, slots_on(machines, resources.cpus_per_worker, has_gpu))


def slots_on(machines: list[Machine], cpus_per_worker: float, has_gpu: bool) -> int:
    """Return how many processes the machines can hold, each on one of them."""
    by_cpu = [int(machine.get("CPU", 0.0) / cpus_per_worker + 1e-6) for machine in machines]
    if not has_gpu:
        return sum(by_cpu)
    return sum(min(n, int(machine.get("GPU", 0.0))) for n, machine in zip(by_cpu, machines, strict=True))


def wants_gpu(resources: ResourcesConfig, machines: list[Machine]) -> bool:
    """Decide whether workers train on GPUs: as set, else where there is one."""
    return resources.gpu if resources.gpu is not None else total_of(machines, "GPU") >= 1


def worker_bundle(resources: ResourcesConfig, has_gpu: bool, more_cpus: float = 0.0) -> Machine:
    """Return what one training worker reserves, with `more_cpus` beside it."""
    return {"CPU": resources.cpus_per_worker + more_cpus} | ({"GPU": 1.0} if has_gpu else {})


def bundles_of(resources: ResourcesConfig, has_gpu: bool, workers: int) -> list[Machine]:
    """Return what an autoscaler is asked for: room for each worker together with a data process of its own.

    Where the number of data processes is set, the others of them may have room on any machine.
    """
    more = [{"CPU": resources.cpus_per_data_task}] * ((resources.data_tasks or 0) - workers)
    return [worker_bundle(resources, has_gpu, resources.cpus_per_data_task)] * workers + more


def total_of(machines: Iterable[Machine], kind: str) -> float:
    """Return the sum of one resource, such as "CPU", over the machines."""
    return sum(machine.get(kind, 0.0) for machine in machines)
