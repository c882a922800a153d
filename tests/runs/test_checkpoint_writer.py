import threading

import pytest
import torch

from sslsv.config import RunConfig
from sslsv.runs.checkpoint import Checkpoint, list_checkpoints, read_checkpoint
from sslsv.runs.checkpoint_writer import CheckpointWriter
from sslsv.runs.folder import RunFolder


class HeldBack(RunFolder):
    """A folder on a disk that takes its time: a write ends when the test says so."""

    def __init__(self, *where):
        super().__init__(*where)
        self.is_released, self.error = threading.Event(), None

    def write(self, name, content):
        assert self.is_released.wait(30)
        if self.error is not None:
            raise self.error
        super().write(name, content)


@pytest.fixture
def folder(tmp_path):
    return HeldBack(str(tmp_path), "run")


def some_checkpoint(step, weight=None, **values):
    weight = torch.full((3,), float(step)) if weight is None else weight
    return Checkpoint(step=step, config="seed: 1\n", model={"weight": weight}, **values)


def steps(folder):
    return [step for step, _ in list_checkpoints(folder)]


def test_checkpoint_writer__saves_the_state_of_the_call_while_training_goes_on(folder):
    writer, weight = CheckpointWriter(folder, RunConfig(keep_checkpoints=2)), torch.zeros(3)
    writer.save(some_checkpoint(1, weight))
    weight.add_(1)  # the next step, before anything is on the disk
    assert steps(folder) == []
    folder.is_released.set()
    writer.wait()
    ((_, name),) = list_checkpoints(folder)
    assert torch.equal(read_checkpoint(folder, name).model["weight"], torch.zeros(3))
    writer.close()


def test_checkpoint_writer__the_next_save_waits_for_the_one_before(folder):
    writer = CheckpointWriter(folder, RunConfig(keep_checkpoints=2))
    writer.save(some_checkpoint(1))
    second = threading.Thread(target=writer.save, args=(some_checkpoint(2),))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    folder.is_released.set()
    second.join(30)
    writer.close()
    assert steps(folder) == [1, 2]


def test_checkpoint_writer__an_error_reaches_the_next_save_and_the_end(folder):
    writer = CheckpointWriter(folder, RunConfig(keep_checkpoints=2))
    folder.is_released.set()
    folder.error = OSError(28, "No space left on device")
    writer.save(some_checkpoint(1))
    with pytest.raises(OSError, match="No space left"):
        writer.save(some_checkpoint(2))
    writer.save(some_checkpoint(3))
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.close()
    assert steps(folder) == []


def test_checkpoint_writer__keeps_the_newest_and_the_best(folder):
    writer = CheckpointWriter(folder, RunConfig(keep_checkpoints=2))
    folder.is_released.set()
    for step in range(1, 6):
        writer.save(some_checkpoint(step, best_step=2))
    writer.close()
    assert steps(folder) == [2, 4, 5]


def test_checkpoint_writer__an_old_one_that_cannot_be_deleted_is_told_once_and_stops_nothing(folder):
    told = []
    writer = CheckpointWriter(folder, RunConfig(keep_checkpoints=1), told.append)
    folder.is_released.set()
    delete = folder.delete

    def refuse_the_first(name):
        if "step_00000001-" in name:
            raise PermissionError(1, "Operation not permitted")
        delete(name)

    folder.delete = refuse_the_first
    for step in range(1, 5):
        writer.save(some_checkpoint(step))
    writer.wait()
    writer.close()
    assert steps(folder) == [1, 4]  # the others are deleted nevertheless
    assert len(told) == 1 and "can't be deleted, so they stay: [Errno 1] Operation not permitted" in told[0]
