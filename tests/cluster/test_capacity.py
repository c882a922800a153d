"""What fits a machine or cluster, and the sentences for what does not."""

import pytest

from sslsv.cluster.capacity import CapacityError, bundles_of, find_share, fitting_data_tasks, fitting_workers
from sslsv.config import ResourcesConfig


def test_find_share__fills_the_cpus_that_workers_leave_up_to_the_number_given():
    machine = [{"CPU": 4.0}]
    share = find_share(ResourcesConfig(), machine, machine)
    assert (share.has_gpu, share.data_tasks, share.cpus_of_others) == (False, 7, 0.0)
    assert find_share(ResourcesConfig(data_tasks=100), machine, machine).data_tasks == 7
    assert find_share(ResourcesConfig(data_tasks=2), machine, machine).data_tasks == 2
    # Of a range only the fewest workers must fit.
    assert find_share(ResourcesConfig(workers=(2, 16)), machine, machine).data_tasks == 6


def test_find_share__takes_gpus_when_there_are_any():
    machine = [{"CPU": 8.0, "GPU": 2.0}]
    assert find_share(ResourcesConfig(workers=2), machine, machine).has_gpu
    assert not find_share(ResourcesConfig(gpu=False), machine, machine).has_gpu


@pytest.mark.parametrize(
    ("resources", "machines", "free", "sentence"),
    [
        (
            ResourcesConfig(workers=4),
            [{"CPU": 2.0}],
            None,
            r"need 4 CPUs, but there are 2; lower resources.workers",
        ),
        (ResourcesConfig(), [{"CPU": 2.0}], [{}], r"other jobs hold 2 of the 2; wait for them"),
        (ResourcesConfig(gpu=True), [{"CPU": 2.0}], None, r"there are 0 GPUs; .* resources.gpu=false"),
        (
            ResourcesConfig(workers=2),
            [{"CPU": 8.0, "GPU": 2.0}],
            [{"CPU": 8.0, "GPU": 1.0}],
            r"other jobs hold 1 of 2 GPUs",
        ),
        (
            ResourcesConfig(workers=2, cpus_per_worker=6),
            [{"CPU": 4.0}] * 4,
            None,
            "but 4 machines together have 0: a worker can't be spread",
        ),
    ],
)
def test_find_share__refuses_what_would_wait_for_ever(resources, machines, free, sentence):
    with pytest.raises(CapacityError, match=sentence):
        find_share(resources, machines, machines if free is None else free)


def test_fitting_workers__leave_cpus_to_the_data_and_share_the_batch():
    resources, machine = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=1), {"CPU": 8.0}
    assert fitting_workers(resources, [1, 2, 4], False, [machine], 8.0) == 2  # four would leave none
    assert fitting_workers(resources, [1, 2, 4, 5], False, [machine] * 2, 16.0) == 5
    assert fitting_workers(resources, [1, 2, 4], False, [machine] * 2, 16.0) == 4  # not five


def test_fitting_workers__slots_are_of_whole_machines_and_gpus():
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=0.5)
    assert fitting_workers(resources, [1, 2, 3], False, [{"CPU": 3.0}] * 2, 6.0) == 2
    assert fitting_workers(resources, [1, 2], True, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 16.0) == 1
    assert fitting_workers(resources, [1, 2], False, [], 0.0) == 0


def test_fitting_data_tasks__a_number_that_was_given_stays_where_machines_may_be_added():
    asked, free = ResourcesConfig(data_tasks=100), ResourcesConfig()
    assert fitting_data_tasks(asked, 1, 8.0) == fitting_data_tasks(free, 1, 8.0, can_grow=True) == 15
    assert fitting_data_tasks(asked, 1, 8.0, can_grow=True) == 100


@pytest.mark.parametrize(("data_tasks", "more"), [(None, 0), (1, 0), (5, 3)])
def test_bundles_of__each_worker_has_a_data_process_and_the_others_have_room_anywhere(data_tasks, more):
    resources = ResourcesConfig(
        workers=(2, 8), cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=data_tasks
    )
    assert bundles_of(resources, True, 2) == [{"CPU": 2.5, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * more
