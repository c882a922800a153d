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
    cpus_of_others: float = 0.0  # what other jobs held when the run began
    can_grow: bool = False  # an autoscaler is adding machines for this run


def find_share(resources: ResourcesConfig, machines: list[Machine], free: list[Machine]) -> Share:
    """Decide whether the GPUs are used and how many data processes fit.

    `machines` is what each machine has in all, `free` what it has left.  Ray would wait without a word for
    CPUs that never come: training workers that hold every CPU leave none to the data.  Where the number of
    workers is a range, its lower end must fit.  Raises CapacityError.
    """
    workers = resources.fewest_workers
    total_gpus, free_gpus = total_of(machines, "GPU"), total_of(free, "GPU")
    total_cpus, free_cpus = total_of(machines, "CPU"), total_of(free, "CPU")
    has_gpu = wants_gpu(resources, machines)
    if has_gpu and free_gpus < workers:
        request = f"resources.workers is {workers} with one GPU each, but "
        if total_gpus < workers:
            raise CapacityError(
                f"{request}there are {total_gpus:g} GPUs; lower resources.workers, or set "
                "resources.gpu=false to train on CPUs"
            )
        raise CapacityError(
            f"{request}other jobs hold {total_gpus - free_gpus:g} of {total_gpus:g} GPUs; wait for them, or "
            "lower resources.workers"
        )
    needed = cpus_needed(resources, workers)
    if needed > free_cpus:
        request = (
            f"{workers} training workers x {resources.cpus_per_worker:g} (resources.cpus_per_worker) and as "
            f"many data processes x {resources.cpus_per_data_task:g} (resources.cpus_per_data_task) need "
            f"{needed:g} CPUs, but "
        )
        if needed > total_cpus:
            raise CapacityError(
                f"{request}there are {total_cpus:g}; lower resources.workers, or the CPUs reserved for each "
                "(they are only counted, not enforced)"
            )
        raise CapacityError(
            f"{request}other jobs hold {total_cpus - free_cpus:g} of the {total_cpus:g}; wait for them, or "
            "lower the request"
        )
    slots = slots_on(machines, resources.cpus_per_worker, has_gpu)
    if slots < workers:
        raise CapacityError(
            f"{workers} training workers x {resources.cpus_per_worker:g} CPUs (resources.cpus_per_worker)"
            f"{' and one GPU' if has_gpu else ''} need as many places, but {len(machines)} machines together "
            f"have {slots}: a worker can't be spread over machines; lower one of the two"
        )
    return Share(has_gpu, fitting_data_tasks(resources, workers, free_cpus), total_cpus - free_cpus)


def wants_gpu(resources: ResourcesConfig, machines: list[Machine]) -> bool:
    """Decide whether workers train on GPUs: as set, else where there is one."""
    return resources.gpu if resources.gpu is not None else total_of(machines, "GPU") >= 1


def worker_bundle(resources: ResourcesConfig, has_gpu: bool, spare_cpus: float = 0.0) -> Machine:
    """Return what one training worker reserves, with `spare_cpus` beside it."""
    return {"CPU": resources.cpus_per_worker + spare_cpus} | ({"GPU": 1.0} if has_gpu else {})


def bundles_of(resources: ResourcesConfig, has_gpu: bool, workers: int) -> list[Machine]:
    """Return what an autoscaler is asked for: room for each worker together with a data process of its own.

    Where the number of data processes is set, the others of them may have room on any machine.
    """
    more = [{"CPU": resources.cpus_per_data_task}] * ((resources.data_tasks or 0) - workers)
    return [worker_bundle(resources, has_gpu, resources.cpus_per_data_task)] * workers + more


def cpus_needed(resources: ResourcesConfig, workers: int) -> float:
    """Return the CPUs of so many workers; every worker draws on at least one data process."""
    return workers * (resources.cpus_per_worker + resources.cpus_per_data_task)


def fitting_data_tasks(
    resources: ResourcesConfig, workers: int, cpus: float, *, can_grow: bool = False
) -> int:
    """Return how many data processes have room in `cpus` beside the workers, at most `resources.data_tasks`.

    With `can_grow` a number that was set stands: an autoscaler was asked for machines, which come later.
    """
    if can_grow and resources.data_tasks is not None:
        return resources.data_tasks
    left = cpus - workers * resources.cpus_per_worker
    fitting = int(left / resources.cpus_per_data_task + 1e-6)
    return max(min(resources.data_tasks or fitting, fitting), 1)


def fitting_workers(
    resources: ResourcesConfig, counts: Iterable[int], has_gpu: bool, machines: list[Machine], cpus: float
) -> int:
    """Return the largest of `counts` that has slots on the machines and `cpus` for it and its data, or 0."""
    slots = slots_on(machines, resources.cpus_per_worker, has_gpu)
    return max((n for n in counts if n <= slots and cpus_needed(resources, n) <= cpus + 1e-6), default=0)


def slots_on(machines: list[Machine], cpus_per_worker: float, has_gpu: bool) -> int:
    """Return how many training workers the machines can hold, each worker on one of them."""
    by_cpu = [int(machine.get("CPU", 0.0) / cpus_per_worker + 1e-6) for machine in machines]
    if not has_gpu:
        return sum(by_cpu)
    return sum(min(n, int(machine.get("GPU", 0.0))) for n, machine in zip(by_cpu, machines, strict=True))


def total_of(machines: Iterable[Machine], kind: str) -> float:
    """Return the sum of one resource, such as "CPU", over the machines."""
    return sum(machine.get(kind, 0.0) for machine in machines)
