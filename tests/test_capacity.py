import pytest

from sslsv.capacity import CapacityError, find_share
from sslsv.config import ResourcesConfig


def test_find_share__fills_the_cpus_that_workers_leave():
    share = find_share(ResourcesConfig(workers=1), {"CPU": 2.0}, {"CPU": 2.0}, [{"CPU": 2.0}])
    assert (share.has_gpu, share.data_tasks) == (False, 3)


def test_find_share__takes_gpus_when_there_are_any():
    machine = {"CPU": 8.0, "GPU": 2.0}
    assert find_share(ResourcesConfig(workers=2), machine, machine, [machine]).has_gpu
    assert not find_share(ResourcesConfig(gpu=False), machine, machine, [machine]).has_gpu


def test_find_share__a_worker_cannot_be_spread_over_machines():
    cluster, nodes = {"CPU": 16.0}, [{"CPU": 4.0}] * 4
    with pytest.raises(CapacityError, match="but 4 machines together have 0"):
        find_share(ResourcesConfig(workers=2, cpus_per_worker=6), cluster, cluster, nodes)
    assert find_share(ResourcesConfig(workers=4, cpus_per_worker=3), cluster, cluster, nodes)


@pytest.mark.parametrize(
    ("resources", "total", "free", "sentence"),
    [
        (
            ResourcesConfig(workers=4),
            {"CPU": 2.0},
            {"CPU": 2.0},
            r"need 4 CPUs, but there are 2; lower resources.workers",
        ),
        (ResourcesConfig(), {"CPU": 2.0}, {}, r"other jobs hold 2 of the 2; wait for them"),
        (ResourcesConfig(gpu=True), {"CPU": 2.0}, {"CPU": 2.0}, r"there are 0 GPUs; .* resources.gpu=false"),
        (
            ResourcesConfig(workers=2),
            {"CPU": 8.0, "GPU": 2.0},
            {"CPU": 8.0, "GPU": 1.0},
            r"other jobs hold 1 of 2 GPUs",
        ),
    ],
)
def test_find_share__refuses_what_would_wait_for_ever(resources, total, free, sentence):
    with pytest.raises(CapacityError, match=sentence):
        find_share(resources, total, free, [total])


def test_find_share__data_tasks_are_capped_by_what_fits():
    machine = {"CPU": 4.0}
    assert find_share(ResourcesConfig(data_tasks=100), machine, machine, [machine]).data_tasks == 7
