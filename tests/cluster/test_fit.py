"""The command's loop: how many workers, when again, and the sentences at its end; whole runs are in test_faults.py."""

import time

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.util.placement_group import placement_group

from sslsv.cluster import fit
from sslsv.cluster.capacity import Share
from sslsv.cluster.connect import Cluster
from sslsv.cluster.fit import Crashes, NoRoomError, Room, failure_sentence, free_what_is_held
from sslsv.cluster.worker import HELD, Watch, check_sees_run
from sslsv.config import ResourcesConfig
from sslsv.runs.checkpoint import Checkpoint, write_checkpoint
from sslsv.runs.folder import RunFolder

PAIR = ResourcesConfig(workers=(1, 2), cpus_per_worker=2, cpus_per_data_task=1, wait_minutes=1)


def cluster_of(*free, machines=None, leaving=(), coming=0):
    """Machines "0", "1" ... of 3 CPUs with so many left."""
    everything = {str(i): {"CPU": 3.0} for i in range(machines or len(free))}
    left = {str(i): {"CPU": cpus} for i, cpus in enumerate(free)}
    return Cluster(everything, left, set(leaving), coming, can_grow=False)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "run")


@pytest.fixture
def room(monkeypatch):
    """Where workers wait, what they say, and the looks at the cluster that they get, a second apart."""
    said, looks = [], []
    monkeypatch.setattr(fit, "look", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    now = [100.0]
    monkeypatch.setattr(fit.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fit.time, "sleep", lambda _: now.__setitem__(0, now[0] + 1))
    return Room(PAIR, [1, 2], Share(False, 1), said.append), said, looks


def test_room__fewer_workers_than_the_machines_hold_start_only_after_a_moment(room):
    waiting, said, looks = room
    looks += [cluster_of(3, 0)] * 5 + [cluster_of(3, 3)]
    assert waiting.wait() == (2, ["0", "1"]) and said == []
    waiting.clear()
    looks[:] = [cluster_of(3, 0)]
    assert waiting.wait()[0] == 1


def test_room__says_ever_more_seldom_what_is_waited_for_and_gives_up(room):
    waiting, said, looks = room
    looks += [cluster_of(0, coming=1)] * 100 + [cluster_of(0)]
    with pytest.raises(NoRoomError, match="no room for 1 training worker.* with 2 CPUs each, .* 1 minutes"):
        waiting.wait()
    assert len(said) == 2 and said[0].endswith("until machines come back (10 s so far)")


@pytest.mark.parametrize(
    ("cluster", "futile", "reason"),
    [
        (cluster_of(0.5, 3), None, "there is room for 2 training workers instead of 1"),
        (cluster_of(0.5, 3), ["0", "1"], None),
        (cluster_of(0.5, 1), None, None),
    ],
)
def test_watch__more_workers_fit_where_the_machines_are_not_known_to_be_futile(cluster, futile, reason):
    watch = Watch.__new__(Watch)
    watch.resources, watch.nodes = PAIR, ["0"]
    watch.job = {"has_gpu": False, "counts": [1, 2], "futile": futile}
    assert watch.reason_to_grow(cluster) == reason


def save(folder, step):
    write_checkpoint(folder, Checkpoint(step=step, config="", model={}))


def test_crashes__are_counted_since_the_last_new_checkpoint(folder):
    crashes = Crashes(folder, most=1)
    for step in range(5):  # a machine lost now and then: each time the run had got further
        save(folder, step)
        assert not crashes.are_too_many()
    assert crashes.are_too_many()  # and now it had not
    save(folder, 9)
    assert not crashes.are_too_many()


def test_crashes__storage_that_does_not_answer_shows_no_progress(folder, monkeypatch):
    def refuse(_):
        raise OSError("503")

    monkeypatch.setattr(fit, "list_checkpoints", refuse)
    crashes = Crashes(folder, most=1)
    assert [crashes.are_too_many() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("error", "sentence", "is_of_system"),
    [
        (
            WorkerGroupError("", {3: ValueError("a\nno data")}),
            "training worker 3 failed: no data (det",
            False,
        ),
        (
            WorkerGroupError("", {0: OSError("no disk")}),
            "training worker 0 failed: no disk (details in",
            True,
        ),
        (ControllerError(OSError("no disk")), "Ray's controller of the training failed: no disk (det", False),
        (ActorDiedError(), "Ray's controller of the training failed: The actor died unexpectedly", False),
    ],
)
def test_failure_sentence__says_who_failed(error, sentence, is_of_system, folder):
    assert failure_sentence(error, folder).startswith(sentence)
    assert fit._is_of_system(error) == is_of_system


def test_delete_notes_of_ray__what_cannot_be_deleted_is_a_sentence(folder, capsys, monkeypatch):
    def refuse(name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(folder, "delete_folder", refuse)
    fit.delete_notes_of_ray(folder)
    assert "run/ray, which nothing needs, can't be deleted: [Errno 1]" in capsys.readouterr().err


def test_free_what_is_held__gives_back_the_reservation_of_a_killed_trainer(ray_session, folder):
    everything = ray.available_resources()["CPU"]
    group, other = placement_group([{"CPU": 1}]), placement_group([{"CPU": 1}])
    ray.get([group.ready(), other.ready()])
    folder.write(HELD, group.id.hex().encode())
    for _ in range(2):  # the second time there is nothing to do
        free_what_is_held(folder)
    deadline = time.monotonic() + 20  # Ray tells some moments late what is free
    while ray.available_resources().get("CPU") != everything - 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == everything - 1
    ray.util.remove_placement_group(other)


@pytest.mark.parametrize("found", [None, {"wandb_id": "another"}])
def test_check_sees_run__a_folder_of_the_same_name_on_another_disk_is_a_sentence(found, folder):
    if found is not None:
        folder.write_json("run.json", found)
    with pytest.raises(
        ValueError, match=f"{folder.location} on this machine is not .* all machines .* mount"
    ):
        check_sees_run(folder, {"wandb_id": "mine"}, patience_seconds=0)
