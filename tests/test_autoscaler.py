"""Requests larger than the machines that are there, on clusters that can grow."""

import time

import pytest

from tests.autoscaling_cluster import autoscaling_cluster
from tests.training_command import Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TWO = ("resources.workers=2", "resources.cpus_per_data_task=1", "resources.threads_per_worker=1")


def test_train__a_request_waits_where_machines_are_added_and_is_refused_where_not(tmp_path, demo_corpus):
    with autoscaling_cluster(cpus=3, most=2):
        start = time.monotonic()
        huge = Training(tmp_path, demo_corpus, "huge", *TWO, "resources.cpus_per_worker=50")
        code, output = huge.wait(timeout=90)
        assert code == 2 and "need 102 CPUs" in output and "Traceback" not in output, output
        assert time.monotonic() - start < 90
        training = Training(tmp_path, demo_corpus, "waits", *TWO, "resources.cpus_per_worker=2", epochs=3)
        code, output = training.wait()
        assert code == 0 and "waiting for the autoscaler, which adds machines" in output, output
        assert training.folder.read_json("summary.json")["workers"] == 2
