"""Test the command's loop: number of workers, retries and final messages; test_faults.py has entire runs."""

import dataclasses
import pickle
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.util.placement_group import placement_group

from sslsv.cluster import fit, worker
from sslsv.cluster.connect import Cluster
from sslsv.cluster.fit import describe_failure, release_reservation, with_absolute_paths
from sslsv.cluster.worker import Watch, check_sees_run
from sslsv.config import Config, ResourcesConfig, RunConfig
from sslsv.data.audio import AudioError
from sslsv.runs.checkpoint import Checkpoint, write_checkpoint
from sslsv.runs.folder import HELD, MARK, RunFolder
from sslsv.settings import apply_overrides
from sslsv.training.loop import Interrupted
from tests.cluster.test_connect import cluster_of

CONFIG = Config(
    resources=ResourcesConfig(
        workers=(1, 2), cpus_per_worker=2, cpus_per_data_task=1, data_tasks=1, gpu=False
    )
)
JOB = {"counts": [1, 2], "full_machines": None}


def test_anywhere__weights_of_a_relative_path_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformer = {"encoder.name": "speech_transformer", "encoder.weights": "w.pt"}
    config = with_absolute_paths(apply_overrides(CONFIG, transformer))
    assert config.encoder.weights == str(tmp_path / "w.pt") and config.encoder.init is None
    assert config.data.root == str(tmp_path / CONFIG.data.root)
    assert with_absolute_paths(apply_overrides(CONFIG, {"encoder.init": "a"})).encoder.init == str(
        tmp_path / "a"
    )


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "run")


@pytest.mark.parametrize(
    ("cluster", "full_machines", "reason"),
    [
        (cluster_of(0.5, 3), None, "there is room for 2 training workers instead of 1"),
        (cluster_of(0.5, 3), ["0", "1"], None),
        (cluster_of(0.5, 1), None, None),
        (cluster_of(0, 2), None, None),  # the data tasks of a second worker would have no CPU
        (cluster_of(1, 2), None, "there is room for 2 training workers instead of 1"),
    ],
)
def test_watch__more_workers_fit_where_the_machines_are_not_known_to_be_full(cluster, full_machines, reason):
    watch = Watch.__new__(Watch)
    watch.resources, watch.nodes = CONFIG.resources, ["0"]
    watch.job = JOB | {"full_machines": full_machines}
    assert watch.reason_to_grow(cluster) == reason


@pytest.fixture
def attempts(folder, monkeypatch):
    """Run the loop on prepared attempts: each saves one more step, then returns a result or raises."""

    def run(*outcomes, max_failures=1, leaving=frozenset()):
        remaining = list(outcomes)

        def once(job, resources, folder, count):
            step, outcome = remaining.pop(0)
            if step is not None:
                write_checkpoint(folder, Checkpoint(step=step, config="", model={}))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(fit, "wait_for_room", lambda *arguments: (2, cluster_of(3)))
        monkeypatch.setattr(fit, "cluster_state", lambda: Cluster({}, {}, leaving, 0, has_autoscaler=False))
        monkeypatch.setattr(fit, "fit_once", once)
        job, config = dict(JOB), dataclasses.replace(CONFIG, run=RunConfig(max_failures=max_failures))
        line = SimpleNamespace(say=lambda text: None, stage=lambda text: None)
        return fit.fit_until_done(job, config, folder, line), job["full_machines"]

    return run


CRASH = WorkerGroupError("", {1: ValueError("no data")})
DONE = {"step": 9}


def test_fit__crashes_are_counted_since_the_last_new_checkpoint(attempts):
    # Machines are lost several times; each time the run has made progress.
    assert attempts(*[(step, CRASH) for step in range(5)], (None, DONE))[0] == DONE
    with pytest.raises(WorkerGroupError):
        attempts((9, CRASH), (None, CRASH), (None, DONE))
    with pytest.raises(WorkerGroupError):
        attempts((12, CRASH), (None, DONE), max_failures=0)
    unreadable = WorkerGroupError("", {0: AudioError("21 recordings in a row cannot be read")})
    with pytest.raises(WorkerGroupError):  # a retry would read the same files
        attempts((15, unreadable), (None, DONE), max_failures=9)


def test_fit__workers_that_were_asked_to_stop_found_no_slots_or_lost_a_machine_have_not_crashed(attempts):
    class WorkerGroupStartupTimeoutError(Exception):
        """Have the name of Ray's error."""

    asked = WorkerGroupError("", {0: ActorDiedError(), 1: Interrupted("step 4: more fit")})
    result, full_machines = attempts(*[(None, asked)] * 5, (None, DONE), max_failures=0)
    assert result == DONE and full_machines == ["0"]  # two workers had been running before too
    timeout = ControllerError(WorkerGroupStartupTimeoutError())
    assert attempts(*[(None, CRASH)] * 5, (None, DONE), max_failures=0, leaving={"0"})[0] == DONE
    assert attempts(*[(None, timeout)] * 5, (None, DONE), max_failures=0)[0] == DONE


@pytest.mark.parametrize(
    ("error", "sentence", "is_system_error"),
    [
        (
            WorkerGroupError("", {3: ValueError("\nno!\na")}),
            "training worker 3 failed: ValueError: no!",
            False,
        ),
        (
            WorkerGroupError("", {1: KeyError("view_c")}),
            "training worker 1 failed: KeyError: 'view_c'",
            False,
        ),
        (WorkerGroupError("", {1: AssertionError()}), "training worker 1 failed: AssertionError (", False),
        (WorkerGroupError("", {0: OSError("no disk")}), "training worker 0 failed: OSError: no disk (", True),
        (ControllerError(OSError("no")), "Ray's controller of the training failed: OSError: no (", False),
        (ActorDiedError(), "Ray's controller of the training failed: The actor died unexpectedly", True),
    ],
)
def test_describe_failure__says_who_failed_and_what_the_same_command_does(
    error, sentence, is_system_error, folder
):
    condition = "" if is_system_error else " once that is fixed"
    for now in ("starts from the beginning", "(without --fresh) goes on from step 7"):
        described = describe_failure(error, folder)
        assert described["error"].startswith(sentence) and described["is_system_error"] == is_system_error
        assert described["error"].endswith(f"; the same command {now}{condition}")
        write_checkpoint(folder, Checkpoint(step=7, config="", model={}))


def test_describe_failure__keeps_the_traceback_of_the_worker(folder, monkeypatch):
    monkeypatch.setattr(worker, "open_training", lambda job: {}["view_c"])
    with pytest.raises(KeyError) as caught:
        worker.run_worker({"task": None})
    arrived = pickle.loads(pickle.dumps(caught.value))
    for cause, kept in ((arrived, "in run_worker"), (ActorDiedError(), "Ray's words")):
        describe_failure(WorkerGroupError("Ray's words", {0: cause}), folder)
        assert kept in folder.read("failure.txt").decode()


def test_release_reservation__gives_back_the_reservation_of_a_killed_trainer(ray_session, folder):
    everything = ray.available_resources()["CPU"]
    group, other = placement_group([{"CPU": 1}]), placement_group([{"CPU": 1}])
    ray.get([group.ready(), other.ready()])
    folder.write(HELD, group.id.hex().encode())
    for _ in range(2):  # the second call has nothing to do
        release_reservation(folder)
    deadline = time.monotonic() + 20  # Ray reports free resources with some delay
    while ray.available_resources().get("CPU") != everything - 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == everything - 1
    ray.util.remove_placement_group(other)


def test_check_sees_run__a_folder_of_the_same_name_on_another_disk_is_a_sentence(folder):
    folder.write(MARK, b"another")
    check_sees_run(folder, "another", patience_seconds=0)
    with pytest.raises(ValueError, match="run on this machine is not .* all machines .* mount"):
        check_sees_run(folder, "mine", patience_seconds=0)
