import pytest

from sslsv.cluster.capacity import CapacityError, bundles_of, find_share, fitting_data_tasks, fitting_workers
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


def test_find_share__of_a_range_only_the_fewest_workers_must_fit():
    machine = {"CPU": 2.0}
    assert find_share(ResourcesConfig(workers=(2, 16)), machine, machine, [machine]).data_tasks == 2


def test_fitting_workers__leave_cpus_to_the_data_and_share_the_batch():
    resources, machine = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=1), {"CPU": 8.0}
    assert fitting_workers(resources, [1, 2, 4], False, [machine], 8.0) == 2  # four would leave none
    assert fitting_workers(resources, [1, 2, 4, 5], False, [machine] * 2, 16.0) == 5
    assert fitting_workers(resources, [1, 2, 4], False, [machine] * 2, 16.0) == 4  # not five


def test_fitting_workers__places_are_of_whole_machines_and_gpus():
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=0.5)
    assert fitting_workers(resources, [1, 2, 3], False, [{"CPU": 3.0}] * 2, 6.0) == 2
    assert fitting_workers(resources, [1, 2], True, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 16.0) == 1
    assert fitting_workers(resources, [1, 2], False, [], 0.0) == 0


def test_fitting_data_tasks__follow_the_cpus_that_workers_leave():
    resources = ResourcesConfig(cpus_per_worker=1, cpus_per_data_task=0.5)
    assert [fitting_data_tasks(resources, workers, 8.0) for workers in (1, 2, 4)] == [14, 12, 8]
    assert fitting_data_tasks(ResourcesConfig(data_tasks=3), 2, 8.0) == 3


def test_fitting_data_tasks__a_number_that_was_given_stays_where_machines_may_be_added():
    asked, free = ResourcesConfig(data_tasks=100), ResourcesConfig()
    assert fitting_data_tasks(asked, 1, 8.0) == fitting_data_tasks(free, 1, 8.0, can_grow=True) == 15
    assert fitting_data_tasks(asked, 1, 8.0, can_grow=True) == 100


def test_bundles_of__each_worker_has_room_for_itself_and_a_data_process():
    resources = ResourcesConfig(workers=(2, 8), cpus_per_worker=2, cpus_per_data_task=0.5)
    assert bundles_of(resources, has_gpu=True) == [{"CPU": 2.5, "GPU": 1.0}] * 2


def test_bundles_of__a_given_number_of_data_processes_has_room_on_any_machine():
    resources = ResourcesConfig(workers=2, cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=5)
    assert bundles_of(resources, has_gpu=True) == [{"CPU": 2.5, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * 3
    fewer = ResourcesConfig(workers=2, cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=1)
    assert bundles_of(fewer, has_gpu=False) == [{"CPU": 2.5}] * 2
