"""Test a run whose number of workers follows the machines of a cluster."""

import itertools
import subprocess
import sys
import time

import pytest
from ray.autoscaler.v2.sdk import get_cluster_status

from sslsv.runs.checkpoint import list_checkpoints
from tests.autoscaling_cluster import autoscaling_cluster
from tests.conftest import REPOSITORY
from tests.local_cluster import local_cluster
from tests.recorded import Recorded
from tests.training_command import Training

# A machine of 3 CPUs has room for one worker and a data process.
SIZES = ("resources.cpus_per_worker=2", "resources.cpus_per_data_task=1", "resources.resize_minutes=0.05")
SIZES += ("resources.threads_per_worker=1",)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training__one_then_two_then_one_worker_sees_the_batches_of_a_fixed_run(tmp_path, demo_corpus):
    # The last bit of a gradient depends on the order of summation, and so on the number of workers. Training
    # amplifies the difference: a hundred steps later a loss may be 0.2 % off. So early steps are compared.
    options = (*SIZES, "optimizer.learning_rate=1e-4")
    with local_cluster(3) as cluster:
        fixed = Recorded(tmp_path / "a", demo_corpus, "fixed", *options, epochs=50)
        code, output = fixed.wait()
        assert code == 0, output
        elastic = Recorded(
            tmp_path / "b", demo_corpus, "elastic", *options, "resources.workers=[1,2]", pace=0.15, epochs=50
        )
        elastic.wait_until(lambda: elastic.has_done(5, workers=1), "one worker")
        machine = cluster.add(3)
        elastic.wait_until(lambda: elastic.has_done(10, workers=2), "two workers")
        enough = elastic.lines()[-1]["step"] + 10
        elastic.wait_until(lambda: elastic.has_done(enough, workers=2), "ten steps of two workers")
        cluster.kill(machine)
        code, output = elastic.wait()
        assert code == 0, output
    workers = [line["workers"] for line in elastic.lines()]
    assert [a for a, b in itertools.pairwise([*workers, 0]) if a != b] == [1, 2, 1]
    assert elastic.rows() == fixed.rows()
    assert all(len(checksums) == 1 for step in elastic.rows().values() for checksums in step.values())
    curves = [{record["step"]: record["loss"] for record in run.folder.metrics()} for run in (fixed, elastic)]
    assert curves[0].keys() == curves[1].keys()
    difference = {step: abs(curves[1][step] / loss - 1) for step, loss in curves[0].items()}
    first = next(line["step"] for line in elastic.lines() if line["workers"] == 2) + 1  # records count from 1
    assert max(difference[step] for step in range(1, first)) == 0
    assert 0 < max(difference[step] for step in range(first, first + 5)) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "workers", ["[1,2]", "2"], ids=["a range goes on with fewer", "two wait for another"]
)
def test_training__a_machine_that_will_be_taken_away_costs_no_step(workers, tmp_path, demo_corpus):
    with local_cluster(3, 3) as cluster:
        options = (*SIZES, f"resources.workers={workers}", "run.checkpoint_every_minutes=60")
        options += ("run.max_failures=0", "evaluation.every_epochs=1000")
        training = Recorded(tmp_path, demo_corpus, "preempted", *options, pace=0.1, epochs=40)
        training.wait_until(lambda: training.has_done(10, workers=2), "two workers")
        cluster.drain(cluster.machines[0], seconds=60)
        training.wait_until(lambda: list_checkpoints(training.folder), "the checkpoint at the notice", 30)
        saved = list_checkpoints(training.folder)[-1][0]
        cluster.kill(cluster.machines[0])
        if workers == "2":
            time.sleep(5)
            cluster.add(3)
        code, output = training.wait()
        assert code == 0, output
    steps = sorted((line["step"], line["workers"]) for line in training.lines())
    rest = 1 if workers != "2" else 2
    total = training.folder.metrics()[-1]["step"]
    expected = [(step, 2) for step in range(saved) for _ in range(2)]
    expected += [(step, rest) for step in range(saved, total) for _ in range(rest)]
    assert steps == expected  # no step was done twice


TWO = ("resources.workers=2", "resources.cpus_per_data_task=1", "resources.threads_per_worker=1")


def bundles_and_machines(address):
    """Return the number of bundles requested from the autoscaler and not withdrawn, and that of machines."""
    status = get_cluster_status(address)
    bundles = [len(each.bundles_by_count) for each in status.resource_demands.cluster_constraint_demand]
    return sum(bundles), len(status.active_nodes + status.idle_nodes)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cluster__a_request_waits_where_machines_are_added_and_is_refused_where_not(
    tmp_path, demo_corpus, small_run
):
    with autoscaling_cluster(cpus=3, most=3) as address:
        start = time.monotonic()
        huge = Training(tmp_path, demo_corpus, "huge", *TWO, "resources.cpus_per_worker=50")
        code, output = huge.wait(timeout=90)
        assert code == 2 and "take 50 CPUs each" in output and "Traceback" not in output, output
        assert time.monotonic() - start < 90 and bundles_and_machines(address)[0] == 0
        # The head alone has no room for two embedding processes.
        options = ("--workers", "2", "--replicates", "0", "--out", str(tmp_path / "evaluation"))
        command = [sys.executable, "-m", "sslsv.evaluate", small_run, *options]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "waiting for machines" in done.stderr, done.stderr
        assert bundles_and_machines(address)[0] == 0
        training = Training(tmp_path, demo_corpus, "waits", *TWO, "resources.cpus_per_worker=2", epochs=3)
        code, output = training.wait()
        assert code == 0 and "waiting for machines" in output, output
        assert training.folder.read_json("summary.json")["workers"] == 2
        assert bundles_and_machines(address) == (0, 3)
        # Training fits, but seven data processes need a third machine.
        many = ("resources.data_tasks=7", "resources.cpus_per_data_task=1", "resources.threads_per_worker=1")
        training = Training(tmp_path, demo_corpus, "many", *many, epochs=3)
        code, output = training.wait()
        assert code == 0 and "waiting for machines" not in output, output
        deadline = time.monotonic() + 60  # the machine may start after the training's end
        while bundles_and_machines(address) != (0, 4):
            assert time.monotonic() < deadline, bundles_and_machines(address)
