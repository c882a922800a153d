"""Requests larger than the machines that are there, on clusters that can grow."""

import subprocess
import sys
import time

import pytest
from ray.autoscaler.v2.sdk import get_cluster_status

from tests.autoscaling_cluster import autoscaling_cluster
from tests.conftest import REPOSITORY
from tests.training_command import Training

TWO = ("resources.workers=2", "resources.cpus_per_data_task=1", "resources.threads_per_worker=1")


def asked_and_there(address):
    """How many machines' worth was asked of the autoscaler and not withdrawn, and how many machines there are."""
    status = get_cluster_status(address)
    return len(status.resource_demands.cluster_constraint_demand), len(
        status.active_nodes + status.idle_nodes
    )


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
        assert time.monotonic() - start < 90 and asked_and_there(address)[0] == 0
        # The head alone has no room for two processes that embed.
        options = ("--workers", "2", "--replicates", "0", "--out", str(tmp_path / "evaluation"))
        command = [sys.executable, "-m", "sslsv.evaluate", small_run, *options]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "waiting for the autoscaler" in done.stderr, done.stderr
        assert asked_and_there(address)[0] == 0
        training = Training(tmp_path, demo_corpus, "waits", *TWO, "resources.cpus_per_worker=2", epochs=3)
        code, output = training.wait()
        assert code == 0 and "waiting for the autoscaler, which adds machines" in output, output
        assert training.folder.read_json("summary.json")["workers"] == 2
        assert asked_and_there(address) == (0, 3)
        # It fits, but seven data processes want a third machine.
        many = ("resources.data_tasks=7", "resources.cpus_per_data_task=1", "resources.threads_per_worker=1")
        training = Training(tmp_path, demo_corpus, "many", *many, epochs=3)
        code, output = training.wait()
        assert code == 0 and "waiting" not in output, output
        deadline = time.monotonic() + 60  # it may have come after the training's end
        while asked_and_there(address) != (0, 4):
            assert time.monotonic() < deadline, asked_and_there(address)
