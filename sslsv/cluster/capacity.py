"""Whether a request fits a machine or cluster, given what each machine has and what is free; knows no Ray."""

from collections.abc import Iterable
from dataclasses import dataclass

from sslsv.config import ResourcesConfig

Machine = dict[str, float]  # what Ray calls resources: CPU, GPU


class CapacityError(ValueError):
    """The machine or cluster can't hold what is asked for."""


@dataclass(frozen=True)
class Share:
    """What a run may take: workers on GPUs or not, and data processes beside them."""

    has_gpu: bool
    data_tasks: int
    cpus_of_others: float = 0.0  # what other jobs held when the run began
    can_grow: bool = False  # whether an autoscaler may add machines


def find_share(resources: ResourcesConfig, total: Machine, free: Machine, nodes: list[Machine]) -> Share:
    """Whether the GPUs are used and how many data processes fit, given the cluster's resources.

    Ray would wait without a word for CPUs that never come: training workers that hold every CPU leave none to
    the data.  Where the number of workers is a range, its lower end must fit.  Raises CapacityError.
    """
    workers = resources.fewest_workers
    total_gpus, free_gpus = total.get("GPU", 0.0), free.get("GPU", 0.0)
    has_gpu = resources.gpu if resources.gpu is not None else total_gpus >= 1
    if has_gpu and total_gpus < workers:
        raise CapacityError(
            f"resources.workers is {workers} with one GPU each, but there are {total_gpus:g} GPUs; lower "
            "resources.workers, or set resources.gpu=false to train on CPUs"
        )
    if has_gpu and free_gpus < workers:
        raise CapacityError(
            f"resources.workers is {workers} with one GPU each, but other jobs hold "
            f"{total_gpus - free_gpus:g} of {total_gpus:g} GPUs; wait for them, or lower resources.workers"
        )
    total_cpus, free_cpus = total.get("CPU", 0.0), free.get("CPU", 0.0)
    needed = cpus_needed(resources, workers)
    request = (
        f"{workers} training workers x {resources.cpus_per_worker:g} (resources.cpus_per_worker) and as many "
        f"data processes x {resources.cpus_per_data_task:g} (resources.cpus_per_data_task) need {needed:g} "
        "CPUs"
    )
    if needed > total_cpus:
        raise CapacityError(
            f"{request}, but there are {total_cpus:g}; lower resources.workers, or the CPUs reserved for "
            "each (they are only counted, not enforced)"
        )
    if needed > free_cpus:
        raise CapacityError(
            f"{request}, but other jobs hold {total_cpus - free_cpus:g} of the {total_cpus:g}; wait for "
            "them, or lower the request"
        )
    places = sum(places_on(node, resources.cpus_per_worker, has_gpu) for node in nodes)
    if places < workers:
        raise CapacityError(
            f"{workers} training workers x {resources.cpus_per_worker:g} CPUs (resources.cpus_per_worker)"
            f"{' and one GPU' if has_gpu else ''} need as many places, but {len(nodes)} machines together "
            f"have {places}: a worker can't be spread over machines; lower one of the two"
        )
    return Share(has_gpu, fitting_data_tasks(resources, workers, free_cpus), total_cpus - free_cpus)


def bundles_of(resources: ResourcesConfig, has_gpu: bool) -> list[Machine]:
    """What an autoscaler is asked for: room for each worker together with a data process of its own.

    And for more data processes on any machine, where their number is given.
    """
    workers = resources.fewest_workers
    cpus = resources.cpus_per_worker + resources.cpus_per_data_task
    more = [{"CPU": resources.cpus_per_data_task}] * ((resources.data_tasks or 0) - workers)
    return [{"CPU": cpus} | ({"GPU": 1.0} if has_gpu else {})] * workers + more


def cpus_needed(resources: ResourcesConfig, workers: int) -> float:
    """CPUs of so many workers; every worker draws on at least one data process."""
    return workers * (resources.cpus_per_worker + resources.cpus_per_data_task)


def fitting_data_tasks(
    resources: ResourcesConfig, workers: int, cpus: float, *, can_grow: bool = False
) -> int:
    """How many data processes have room in `cpus` beside the workers, at most `resources.data_tasks`.

    That number itself where an autoscaler has been asked for machines for it, which may come later.
    """
    if can_grow and resources.data_tasks is not None:
        return resources.data_tasks
    left = cpus - workers * resources.cpus_per_worker
    fitting = int(left / resources.cpus_per_data_task + 1e-6)
    return max(min(resources.data_tasks or fitting, fitting), 1)


def fitting_workers(
    resources: ResourcesConfig, counts: Iterable[int], has_gpu: bool, nodes: list[Machine], cpus: float
) -> int:
    """The largest of `counts` that has places on the machines and `cpus` for itself and its data; else 0."""
    places = sum(places_on(node, resources.cpus_per_worker, has_gpu) for node in nodes)
    fitting = [count for count in counts if count <= places and cpus_needed(resources, count) <= cpus + 1e-6]
    return max(fitting, default=0)


def places_on(node: Machine, cpus_per_worker: float, has_gpu: bool) -> int:
    """How many training workers one machine can hold."""
    by_cpu = int(node.get("CPU", 0.0) / cpus_per_worker + 1e-6)
    return min(by_cpu, int(node.get("GPU", 0.0))) if has_gpu else by_cpu
