"""Sentences for what ended a training."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from sslsv.cluster.elastic import NoRoomError
from sslsv.cluster.failure import failure_sentence, is_failure_of_system
from sslsv.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            WorkerGroupError("x", {3: ValueError("a\nno data")}),
            "training worker 3 failed: no data (details in",
        ),
        (ControllerError(OSError("no disk")), "Ray's controller of the training failed: no disk (details in"),
        (ActorDiedError(), "Ray's controller of the training failed: The actor died unexpectedly"),
        (ControllerError(NoRoomError("no room")), "training stopped: no room; the same command goes on"),
    ],
)
def test_failure_sentence__says_who_failed(error, sentence, tmp_path):
    assert failure_sentence(error, RunFolder(str(tmp_path), "run")).startswith(sentence)


@pytest.mark.parametrize(
    ("error", "is_of_system"),
    [
        (WorkerGroupError("x", {0: RuntimeError("the other one left"), 3: OSError("no disk")}), True),
        (WorkerGroupError("x", {3: ValueError("no data")}), False),
        (ControllerError(NoRoomError("no room")), True),
        (ActorDiedError(), False),
    ],
)
def test_is_failure_of_system__storage_network_and_machines_may_be_back(error, is_of_system):
    assert is_failure_of_system(error) == is_of_system
