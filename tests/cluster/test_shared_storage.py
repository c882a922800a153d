"""What a worker says of a run folder that is not the command's; whole commands are in test_cluster.py."""

import threading
import time

import pytest
import ray
from ray.exceptions import GetTimeoutError, TaskUnschedulableError, WorkerCrashedError

from sslsv.cluster import shared_storage
from sslsv.cluster.capacity import CapacityError
from sslsv.cluster.shared_storage import check_sees_run
from sslsv.runs.folder import RunFolder


@pytest.mark.parametrize("found", [None, {"wandb_id": "another"}])
def test_check_sees_run__a_folder_of_the_same_name_on_another_disk_is_a_sentence(found, tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    if found is not None:
        folder.write_json("run.json", found)
    with pytest.raises(ValueError, match=f"{tmp_path}/run on this machine is not .* all machines .* mount"):
        check_sees_run(folder, {"wandb_id": "mine"}, patience_seconds=0)


@pytest.mark.parametrize(
    "error", [TaskUnschedulableError("node is dead"), WorkerCrashedError(), GetTimeoutError("60 s")]
)
def test_check_storage_is_shared__a_machine_that_goes_away_meanwhile_is_a_sentence(error, monkeypatch):
    def fail(reference, timeout):
        raise error

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(
        CapacityError, match="host7, a machine of the cluster, does not say .*; if it is going"
    ):
        shared_storage._answer(None, "host7")


def test_check_sees_run__a_file_that_appears_late_is_waited_for(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    late = threading.Timer(0.2, folder.write_json, ("run.json", {"wandb_id": "mine"}))
    late.start()
    start = time.monotonic()
    check_sees_run(folder, {"wandb_id": "mine"}, patience_seconds=20)
    late.join()
    assert time.monotonic() - start >= 0.2
