import errno

import pytest
import torch

from sslsv.runs.checkpoint import (
    Checkpoint,
    find_checkpoint,
    list_checkpoints,
    newest_sound_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    set_aside_newer,
    write_checkpoint,
)
from sslsv.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "run")


def some_checkpoint(step, **values):
    return Checkpoint(
        step=step, config="seed: 1\n", model={"weight": torch.full((3,), float(step))}, **values
    )


def test_checkpoint__comes_back_as_it_was(folder):
    written = some_checkpoint(
        7, optimizer={"state": {0: {"step": torch.tensor(7.0)}}}, best_value=12.5, best_step=5
    )
    written.bad_utterances = {"a.wav": "a.wav is empty."}
    read = read_checkpoint(folder, write_checkpoint(folder, written))
    assert torch.equal(read.model["weight"], written.model["weight"])
    assert (read.step, read.best_value, read.best_step) == (7, 12.5, 5)
    assert read.optimizer == written.optimizer and read.bad_utterances == written.bad_utterances


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_newest_sound_checkpoint__passes_over_a_damaged_one(folder, tmp_path, damage):
    older = write_checkpoint(folder, some_checkpoint(1))
    newer = write_checkpoint(folder, some_checkpoint(2))
    path = tmp_path / "run" / "checkpoints" / newer
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert newest_sound_checkpoint(folder) == older
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(folder, newer)


def unreadable(folder, errors):
    """The folder, but reading a checkpoint of a step in `errors` raises that."""
    read = folder.read

    def fails(name):
        for step, error in errors.items():
            if f"step_{step:08d}-" in name:
                raise error
        return read(name)

    folder.read = fails
    return folder


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError(errno.ENOENT, "gone")]
)
def test_newest_sound_checkpoint__passes_over_one_that_is_lost(folder, error):
    older = write_checkpoint(folder, some_checkpoint(1))
    newer = write_checkpoint(folder, some_checkpoint(2))
    with pytest.warns(UserWarning, match="unreadable checkpoint"):
        assert newest_sound_checkpoint(unreadable(folder, {2: error})) == older
    folder.delete(f"checkpoints/{newer}")
    folder.names = lambda subfolder: [older, newer]  # as it was a moment ago
    set_aside_newer(folder, older)  # nothing is left to rename
    # Never from the beginning because a disk is away.
    with pytest.warns(UserWarning), pytest.raises(OSError, match=error.strerror):
        newest_sound_checkpoint(unreadable(folder, {1: error}))


@pytest.mark.parametrize("error", [OSError("503 SLOW_DOWN"), TimeoutError(errno.ETIMEDOUT, "timed out")])
def test_newest_sound_checkpoint__an_outage_of_the_storage_is_no_damage(folder, error):
    write_checkpoint(folder, some_checkpoint(1))
    write_checkpoint(folder, some_checkpoint(2))
    with pytest.raises(OSError, match=str(error).split("] ")[-1]):
        newest_sound_checkpoint(unreadable(folder, {2: error}))


def test_newest_sound_checkpoint__ignores_other_files(folder):
    folder.write("checkpoints/step_00000009-0123456789abcdef.pt.123.part", b"half")
    assert newest_sound_checkpoint(folder) is None


def test_read_checkpoint__never_executes_code(folder):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    bad = some_checkpoint(1)
    bad.model = {"weight": Evil()}
    name = write_checkpoint(folder, bad)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_checkpoint(folder, name)


def test_prune__keeps_the_newest_and_the_best(folder):
    for step in range(1, 6):
        write_checkpoint(folder, some_checkpoint(step))
    prune_checkpoints(folder, keep=2, best_step=2)
    assert [step for step, _ in list_checkpoints(folder)] == [2, 4, 5]


def test_find_checkpoint__best_last_and_unknown(folder):
    with pytest.raises(ValueError, match="has no checkpoints"):
        find_checkpoint(folder, "last")
    best = write_checkpoint(folder, some_checkpoint(1))
    last = write_checkpoint(folder, some_checkpoint(2, best_step=1))
    assert find_checkpoint(folder, "best") == best
    assert find_checkpoint(folder, "last") == last
    with pytest.raises(ValueError, match="'step_9' is not in .* there are: last, best"):
        find_checkpoint(folder, "step_9")
