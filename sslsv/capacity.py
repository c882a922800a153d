"""Whether a machine or cluster can hold a request, told from what it has and what of that is free."""

from dataclasses import dataclass

from sslsv.config import ResourcesConfig


class CapacityError(ValueError):
    """The machine or cluster can't hold what is asked for."""


@dataclass(frozen=True)
class Share:
    """What a run may take: workers on GPUs or not, and data processes beside them."""

    has_gpu: bool
    data_tasks: int


def find_share(
    resources: ResourcesConfig,
    total: dict[str, float],
    free: dict[str, float],
    nodes: list[dict[str, float]],
) -> Share:
    """Whether the GPUs are used and how many data processes fit, given the cluster's resources.

    Ray would wait without a word for CPUs that never come: training workers that hold every CPU leave none to
    the data.  Raises CapacityError.
    """
    workers = resources.workers
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
    for_workers, per_task = workers * resources.cpus_per_worker, resources.cpus_per_data_task
    needed = for_workers + workers * per_task  # every worker draws on at least one data process
    request = (
        f"{workers} training workers x {resources.cpus_per_worker:g} (resources.cpus_per_worker) and as many "
        f"data processes x {per_task:g} (resources.cpus_per_data_task) need {needed:g} CPUs"
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
    places = sum(_places(node, resources.cpus_per_worker, bool(has_gpu)) for node in nodes)
    if places < workers:
        raise CapacityError(
            f"{workers} training workers x {resources.cpus_per_worker:g} CPUs (resources.cpus_per_worker)"
            f"{' and one GPU' if has_gpu else ''} need as many places, but {len(nodes)} machines together "
            f"have {places}: a worker can't be spread over machines; lower one of the two"
        )
    fitting = int((free_cpus - for_workers) / per_task + 1e-6)
    return Share(bool(has_gpu), min(resources.data_tasks or fitting, fitting))


def _places(node: dict[str, float], cpus_per_worker: float, has_gpu: bool) -> int:
    """How many training workers one machine can hold."""
    by_cpu = int(node.get("CPU", 0.0) / cpus_per_worker + 1e-6)
    return min(by_cpu, int(node.get("GPU", 0.0))) if has_gpu else by_cpu
