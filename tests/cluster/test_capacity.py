"""What fits a machine or cluster."""

import pytest

from sslsv.cluster.capacity import bundles_of, room_for, with_device
from sslsv.config import ResourcesConfig

FOUR, TWO_GPUS = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("gpu", "machines", "decided"),
    [(None, [FOUR], False), (None, [FOUR, TWO_GPUS], True), (False, [TWO_GPUS], False), (True, [FOUR], True)],
)
def test_with_device__is_as_set_else_a_gpu_where_there_is_one(gpu, machines, decided):
    assert with_device(ResourcesConfig(gpu=gpu), machines).gpu is decided


@pytest.mark.parametrize(
    ("machines", "gpu", "more_cpus", "count"),
    [
        ([{"CPU": 8.0}], False, 0.0, 2),  # a third would leave no CPU to the data
        ([{"CPU": 8.0}], False, 1.0, 3),
        ([{"CPU": 3.0}] * 2, False, 0.0, 2),
        ([{"CPU": 1.9}] * 9, False, 0.0, 0),  # each worker is on one machine
        ([TWO_GPUS, FOUR], True, 0.0, 2),
        ([], False, 9.0, 0),
    ],
)
def test_room_for__counts_slots_on_whole_machines_and_cpus_for_data(machines, gpu, more_cpus, count):
    assert (
        room_for(ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=1, gpu=gpu), machines, more_cpus)
        == count
    )


@pytest.mark.parametrize(("data_tasks", "more"), [(None, 0), (1, 0), (5, 3)])
def test_bundles_of__each_worker_has_a_data_process_and_the_others_have_room_anywhere(data_tasks, more):
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=data_tasks, gpu=True)
    assert bundles_of(resources, 2) == [{"CPU": 2.5, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * more
