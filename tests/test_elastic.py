"""Workers that come and go with the machines of a cluster, while one run goes on."""

import json
import sys
import time

import numpy as np
import pytest
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from sslsv.checkpoint import list_checkpoints
from sslsv.elastic import FailurePolicy, with_added
from sslsv.interruption import Interrupted
from tests.conftest import REPOSITORY
from tests.local_cluster import local_cluster
from tests.training_command import Training

# A machine of 3 CPUs has room for one worker and a data process.
PLACES = ("resources.cpus_per_worker=2", "resources.cpus_per_data_task=1", "resources.resize_minutes=0.05")
PLACES += ("resources.threads_per_worker=1",)


def recorded(tmp_path, corpus, name, *overrides, pace=0.0, epochs=20):
    """A training whose batches are noted, and the folder of the notes."""
    notes = tmp_path / f"{name}_notes"
    notes.mkdir(parents=True)
    script = str(REPOSITORY / "tests/recorded_training.py")
    command = (sys.executable, script, "{yaml}", str(notes), str(pace))
    return Training(tmp_path, corpus, name, *PLACES, *overrides, epochs=epochs, command=command), notes


def read_notes(notes):
    """Rows of every step (sample -> checksum; of a step done twice both), and its numbers of workers."""
    rows, workers = {}, {}
    for file in notes.iterdir():
        for line in map(json.loads, file.read_text().splitlines()):
            workers.setdefault(line["step"], set()).add(line["workers"])
            for sample, checksum in line["rows"].items():
                rows.setdefault(line["step"], {}).setdefault(sample, set()).add(checksum)
    return rows, workers


def wait_until(is_true, training, what, timeout=150):
    deadline = time.monotonic() + timeout
    while not is_true():
        assert training.process.poll() is None, training.process.communicate()[0]
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.1)


def has_workers(notes, count, after_step=-1):
    workers = read_notes(notes)[1]
    newest = max(workers, default=-1)
    return newest > after_step and workers.get(newest) == {count}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training__one_then_two_then_one_worker_sees_the_batches_of_a_fixed_run(tmp_path, demo_corpus):
    with local_cluster(3) as cluster:
        fixed, fixed_notes = recorded(tmp_path / "a", demo_corpus, "fixed", epochs=150)
        code, output = fixed.wait()
        assert code == 0, output
        elastic, notes = recorded(
            tmp_path / "b", demo_corpus, "elastic", "resources.workers=[1,2]", pace=0.15, epochs=150
        )
        wait_until(lambda: has_workers(notes, 1, 5), elastic, "one worker")
        machine = cluster.add(3)
        wait_until(lambda: has_workers(notes, 2, 10), elastic, "two workers")
        both = max(read_notes(notes)[1])
        wait_until(lambda: has_workers(notes, 2, both + 10), elastic, "ten steps of two workers")
        cluster.kill(machine)
        code, output = elastic.wait()
        assert code == 0, output
    rows, workers = read_notes(notes)
    expected, _ = read_notes(fixed_notes)
    counts = [max(workers[step]) for step in sorted(workers)]
    changes = [a for a, b in zip(counts, counts[1:] + [0], strict=True) if a != b]
    assert changes == [1, 2, 1], changes
    assert rows == expected
    assert all(len(checksums) == 1 for step in rows.values() for checksums in step.values())
    losses = [[record["loss"] for record in training.folder.metrics()] for training in (fixed, elastic)]
    assert len(losses[0]) == len(losses[1]) == len(rows)
    difference = np.abs(np.subtract(*losses)) / np.abs(losses[0])
    print(
        f"largest relative difference of the loss: {difference.max():.2e}, median {np.median(difference):.2e}"
    )
    assert difference.max() < 1e-2


def error(cause):
    return WorkerGroupError("a worker failed", {1: cause})


def test_failure_policy__workers_that_were_asked_to_stop_have_not_failed():
    policy = FailurePolicy(FailureConfig(max_failures=1))
    for _ in range(5):
        assert policy.make_decision(error(Interrupted("step 4: more fit"))) == FailureDecision.RETRY
    assert policy.make_decision(error(ValueError())) == FailureDecision.RETRY
    assert policy.make_decision(error(ValueError())) == FailureDecision.RAISE


def test_with_added__machines_that_are_gone_give_nothing_back():
    machines = {"a": {"CPU": 1.0}, "b": {"CPU": 3.0}}
    held = [("a", {"CPU": 2.0}), ("a", {"CPU": 2.0, "GPU": 1.0}), ("gone", {"CPU": 2.0})]
    assert with_added(machines, held) == {"a": {"CPU": 5.0, "GPU": 1.0}, "b": {"CPU": 3.0}}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "workers", ["[1,2]", "2"], ids=["a range goes on with fewer", "two wait for another"]
)
def test_training__a_machine_that_will_be_taken_away_costs_no_step(workers, tmp_path, demo_corpus):
    with local_cluster(3, 3) as cluster:
        options = (f"resources.workers={workers}", "run.checkpoint_every_minutes=60", "run.max_failures=0")
        options += ("evaluation.every_epochs=1000",)
        training, notes = recorded(tmp_path, demo_corpus, "preempted", *options, pace=0.1, epochs=60)
        wait_until(lambda: has_workers(notes, 2, 10), training, "two workers")
        cluster.drain(cluster.machines[0], seconds=60)
        wait_until(lambda: list_checkpoints(training.folder), training, "the checkpoint at the notice", 30)
        saved = list_checkpoints(training.folder)[-1][0]
        cluster.kill(cluster.machines[0])
        if workers == "2":
            time.sleep(5)
            cluster.add(3)
        code, output = training.wait()
        assert code == 0, output
    lines = [json.loads(line) for file in notes.iterdir() for line in file.read_text().splitlines()]
    steps = sorted((line["step"], line["workers"]) for line in lines)
    assert steps.count((saved - 1, 2)) == 2  # nothing was done twice, by whomever
    rest = 1 if workers != "2" else 2
    total = training.folder.metrics()[-1]["step"]
    expected = [(step, 2) for step in range(saved) for _ in range(2)]
    expected += [(step, rest) for step in range(saved, total) for _ in range(rest)]
    assert steps == expected
