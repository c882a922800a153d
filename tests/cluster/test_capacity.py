"""What fits a machine or cluster, and the sentences for what does not."""

import pytest

from sslsv.cluster.capacity import CapacityError, bundles_of, find_share, room_for
from sslsv.config import ResourcesConfig


def test_find_share__fills_the_cpus_that_workers_leave_up_to_the_number_given():
    machine = [{"CPU": 4.0}]
    share = find_share(ResourcesConfig(), machine, machine)
    assert (share.has_gpu, share.data_tasks) == (False, 7)
    assert find_share(ResourcesConfig(data_tasks=100), machine, machine).data_tasks == 7
    assert find_share(ResourcesConfig(data_tasks=2), machine, machine).data_tasks == 2
    # Of a range only the fewest workers must fit.
    assert find_share(ResourcesConfig(workers=(2, 16)), machine, machine).data_tasks == 6


def test_find_share__takes_gpus_when_there_are_any():
    machine = [{"CPU": 8.0, "GPU": 2.0}]
    assert find_share(ResourcesConfig(workers=2), machine, machine).has_gpu
    assert not find_share(ResourcesConfig(gpu=False), machine, machine).has_gpu


FOUR, TWO_GPUS = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("resources", "machines", "free", "sentence"),
    [
        (ResourcesConfig(workers=5), [FOUR], None, "with 4 CPUs .* have room for 4; lower resources.workers"),
        (ResourcesConfig(), [FOUR], [{}], "room for 4, beside other jobs for 0; wait for them, or lower"),
        (ResourcesConfig(gpu=True), [FOUR], None, "a GPU on one .* 0 GPUs .* or set resources.gpu=false"),
        (
            ResourcesConfig(workers=2),
            [TWO_GPUS],
            [TWO_GPUS | {"GPU": 1.0}],
            "room for 2, beside other jobs for 1",
        ),
        (ResourcesConfig(workers=2, cpus_per_worker=6), [FOUR] * 4, None, "each .* on one machine.* for 0;"),
    ],
)
def test_find_share__refuses_what_would_wait_for_ever(resources, machines, free, sentence):
    with pytest.raises(CapacityError, match=sentence):
        find_share(resources, machines, machines if free is None else free)


@pytest.mark.parametrize(
    ("machines", "has_gpu", "more_cpus", "count"),
    [
        ([{"CPU": 8.0}], False, 0.0, 2),  # a third would leave no CPU to the data
        ([{"CPU": 8.0}], False, 1.0, 3),
        ([{"CPU": 3.0}] * 2, False, 0.0, 2),
        ([TWO_GPUS, FOUR], True, 0.0, 2),
        ([], False, 9.0, 0),
    ],
)
def test_room_for__counts_slots_on_whole_machines_and_cpus_for_data(machines, has_gpu, more_cpus, count):
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=1)
    assert room_for(resources, has_gpu, machines, more_cpus) == count


@pytest.mark.parametrize(("data_tasks", "more"), [(None, 0), (1, 0), (5, 3)])
def test_bundles_of__each_worker_has_a_data_process_and_the_others_have_room_anywhere(data_tasks, more):
    resources = ResourcesConfig(
        workers=(2, 8), cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=data_tasks
    )
    assert bundles_of(resources, True, 2) == [{"CPU": 2.5, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * more
