import errno
import threading
from unittest import mock

import pytest
import torch

from sslsv.runs.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    find_checkpoint,
    list_checkpoints,
    newest_undamaged_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
    write_encoded,
)
from sslsv.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "run")


def some_checkpoint(step, weight=None, **values):
    weight = torch.full((3,), float(step)) if weight is None else weight
    return Checkpoint(step=step, config="seed: 1\n", model={"weight": weight}, **values)


def steps(folder):
    return [step for step, _ in list_checkpoints(folder)]


def test_checkpoint__comes_back_as_it_was(folder):
    values = {"best_value": 12.5, "best_step": 5, "skipped": {"utterances": {"a.wav": "a.wav is empty."}}}
    optimizer = {"state": {0: {"step": torch.tensor(7.0)}}}
    written = some_checkpoint(7, optimizer=optimizer, **values)
    read = read_checkpoint(folder, write_checkpoint(folder, written))
    assert torch.equal(read.model["weight"], written.model["weight"])
    assert read.step == 7 and read.optimizer == written.optimizer
    assert {key: getattr(read, key) for key in values} == values


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_newest_sound_checkpoint__passes_over_a_damaged_one(folder, tmp_path, damage):
    older = write_checkpoint(folder, some_checkpoint(1))
    newer = write_checkpoint(folder, some_checkpoint(2))
    path = tmp_path / "run" / "checkpoints" / newer
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=f"damaged checkpoint .*{newer}"):
        assert newest_undamaged_checkpoint(folder) == older
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(folder, newer)


def test_newest_sound_checkpoint__an_error_of_the_storage_is_no_damage(folder):
    for step in (1, 2):
        write_checkpoint(folder, some_checkpoint(step))

    def fails(name):
        raise OSError(errno.EIO, "Input/output error")

    folder.read = fails
    with pytest.raises(OSError, match="Input/output error"):  # must not restart from step 0
        newest_undamaged_checkpoint(folder)


def test_read_checkpoint__of_another_version_is_a_sentence(folder, tmp_path):
    torch.save({"step": 1, "config": "", "model": {}, "bad_files": {}}, tmp_path / "old")
    name = write_encoded(folder, (tmp_path / "old").read_bytes(), 1)
    with pytest.raises(ValueError, match="has bad_files, which this version does not know; use the version"):
        read_checkpoint(folder, name)


@pytest.mark.parametrize(("newest", "left"), [(5, [2, 4, 5]), (4, [2, 3, 4])])
def test_prune__keeps_the_newest_and_the_best_and_nothing_that_was_passed_over_or_cut_short(
    folder, newest, left
):
    names = [write_checkpoint(folder, some_checkpoint(step)) for step in range(1, 6)]
    folder.write("checkpoints/step_00000009-0123456789abcdef.pt.123.part", b"half")
    assert newest_undamaged_checkpoint(folder) == names[-1]
    prune_checkpoints(folder, names[newest - 1], keep=2, best_step=2)
    assert steps(folder) == left and len(folder.names("checkpoints")) == 3


def test_find_checkpoint__best_last_and_unknown(folder):
    with pytest.raises(ValueError, match="has no checkpoints"):
        find_checkpoint(folder, "last")
    best = write_checkpoint(folder, some_checkpoint(1))
    last = write_checkpoint(folder, some_checkpoint(2, best_step=1))
    assert find_checkpoint(folder, "best") == best == find_checkpoint(folder, best)
    assert find_checkpoint(folder, "last") == last
    with pytest.raises(ValueError, match="'step_9' is not in .* choose one of last, best"):
        find_checkpoint(folder, "step_9")
    folder.write(f"checkpoints/{best}", b"damaged")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="'best' is not in .*or is damaged"):
        find_checkpoint(folder, "best")


def test_checkpoint_writer__saves_the_state_of_the_call_while_training_goes_on(folder, monkeypatch):
    write, is_released = folder.write, threading.Event()
    monkeypatch.setattr(folder, "write", lambda *file: is_released.wait(30) and write(*file))
    writer, weight = CheckpointWriter(folder, keep=2, every_minutes=1), torch.zeros(3)
    writer.save(some_checkpoint(1, weight))
    weight.add_(1)  # the next step changes the weights before the file is written
    assert steps(folder) == []
    is_released.set()
    writer.wait()
    ((_, name),) = list_checkpoints(folder)
    assert torch.equal(read_checkpoint(folder, name).model["weight"], torch.zeros(3))
    writer.close()


def test_checkpoint_writer__an_error_reaches_the_next_save_and_the_end(folder, monkeypatch):
    writer = CheckpointWriter(folder, keep=2, every_minutes=1)
    monkeypatch.setattr(folder, "write", mock.Mock(side_effect=OSError(28, "No space left on device")))
    writer.save(some_checkpoint(1))
    with pytest.raises(OSError, match="No space left"):
        writer.save(some_checkpoint(2))
    writer.save(some_checkpoint(3))
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.close()
    assert steps(folder) == []


def test_checkpoint_writer__an_old_one_that_cannot_be_deleted_stops_nothing(folder, monkeypatch):
    delete = folder.delete

    def refuse_the_first(name):
        if "step_00000001-" in name:
            raise PermissionError(1, "Operation not permitted")
        delete(name)

    monkeypatch.setattr(folder, "delete", refuse_the_first)
    writer = CheckpointWriter(folder, keep=1, every_minutes=1)
    for step in range(1, 5):
        writer.save(some_checkpoint(step))
    writer.wait()
    writer.close()
    assert steps(folder) == [1, 4]
