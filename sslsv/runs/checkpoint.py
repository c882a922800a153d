"""Checkpoints: what they contain, how they are written, found, read and pruned.

One file per checkpoint, `checkpoints/step_00001200-1f2e3d4c5b6a7988.pt`: the name carries the step and the
first 16 digits of the content's SHA-256.  A file therefore proves itself: one that is cut short or altered is
recognised and passed over with a warning, and the one before it is used; so is one whose place on the disk
can't be read any more.  Writing is atomic (run_folder.py),
reading never executes code (`weights_only`).
"""

import contextlib
import errno
import hashlib
import io
import re
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from sslsv.runs.folder import RunFolder

FOLDER = "checkpoints"
NAME = re.compile(r"step_(\d{8,})-([0-9a-f]{16})\.pt")
LOST = {
    errno.EIO,
    errno.ENOENT,
}  # of one file; anything else may be an outage, which says nothing about files


@dataclass
class Checkpoint:
    """Everything that the next step depends on, and what a reader of the file needs to rebuild the model.

    The stream position is `step` itself: sample k is a function of (seed, k).  Random generators are seeded
    anew from (seed, step, rank) before every step, so their state is implied as well.
    """

    step: int  # optimizer steps taken; the next batch is global batch number `step`
    config: str  # the resolved settings as yaml
    model: dict[str, Any]
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16 loss scale; empty otherwise
    best_value: float | None = None  # best value of evaluation.criterion so far
    best_step: int | None = None
    stop_reason: str | None = None  # why the run ended here before its last step, if it did
    validations_without_gain: int = 0  # for early stopping
    seconds: float = 0.0  # training time so far, restarts included
    bad_utterances: dict[str, str] = field(default_factory=dict)  # path: what is wrong with it
    bad_trial_recordings: dict[str, str] = field(default_factory=dict)  # likewise, of validation and test
    bad_bank_files: dict[str, str] = field(default_factory=dict)  # likewise, of noises and rooms
    environment: dict[str, str] = field(default_factory=dict)  # library versions, git commit


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Content of the file of `checkpoint`: a copy, so that training may go on while it is written."""
    buffer = io.BytesIO()
    torch.save({f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}, buffer)
    return buffer.getvalue()


def write_encoded(folder: RunFolder, content: bytes, step: int) -> str:
    """Write the content of a checkpoint under the name that it proves, and return the name."""
    name = f"step_{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    folder.write(f"{FOLDER}/{name}", content)
    return name


def write_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> str:
    """Write `checkpoint` and return its file name."""
    return write_encoded(folder, encode_checkpoint(checkpoint), checkpoint.step)


def list_checkpoints(folder: RunFolder) -> list[tuple[int, str]]:
    """(step, file name) of every checkpoint, oldest first."""
    matches = [(NAME.fullmatch(name), name) for name in folder.names(FOLDER)]
    return sorted((int(match.group(1)), name) for match, name in matches if match)


def read_checkpoint(folder: RunFolder, name: str) -> Checkpoint:
    """Read one checkpoint onto the CPU.

    Raises ValueError when the content is not what the name promises.
    """
    return decode_checkpoint(folder.read(f"{FOLDER}/{name}"), name, f"{folder.location}/{FOLDER}/{name}")


def decode_checkpoint(content: bytes, name: str, place: str) -> Checkpoint:
    """The checkpoint in a file's content; `name` must carry its checksum, `place` is for the error.

    Raises ValueError when the content is not what the name promises.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{place} is not named as a checkpoint is (step_00001200-<16 hexadecimal digits>.pt)"
        )
    if hashlib.sha256(content).hexdigest()[:16] != match.group(2):
        raise ValueError(
            f"checkpoint {place} is damaged: its content ({len(content)} bytes) does not have the checksum "
            "in its name; delete it, or copy it here again"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return Checkpoint(**state)


def newest_sound_checkpoint(folder: RunFolder) -> str | None:
    """Name of the newest checkpoint whose checksum holds, or None; warns of each one passed over.

    Raises OSError when the storage does not answer, or when files can't be read and none is sound: starting
    anew would be worse than waiting for a disk to come back.
    """
    lost: OSError | None = None
    for _, name in reversed(list_checkpoints(folder)):
        problem = "damaged"
        try:
            if _has_checksum(folder, name):
                return name
        except OSError as error:
            if error.errno not in LOST:
                raise
            lost, problem = error, "unreadable"
        warnings.warn(f"passing over {problem} checkpoint {folder.location}/{FOLDER}/{name}", stacklevel=2)
    if lost is not None:
        raise lost
    return None


def set_aside_newer(folder: RunFolder, name: str) -> None:
    """Rename every checkpoint newer than the sound one `name` to `*.damaged`.

    Left alone, they would count as the newest when old ones are deleted.
    """
    found = [n for _, n in list_checkpoints(folder)]
    for damaged in found[found.index(name) + 1 :]:
        path = folder.path(f"{FOLDER}/{damaged}")
        with contextlib.suppress(FileNotFoundError):  # one of those that were lost
            folder.filesystem.move(path, f"{path}.damaged")


def _is_sound(folder: RunFolder, name: str) -> bool:
    try:
        return _has_checksum(folder, name)
    except OSError as error:
        if error.errno not in LOST:
            raise
        return False


def _has_checksum(folder: RunFolder, name: str) -> bool:
    return hashlib.sha256(folder.read(f"{FOLDER}/{name}")).hexdigest()[:16] in name


def prune_checkpoints(folder: RunFolder, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one.

    Raises OSError when some can't be deleted; the others are.
    """
    failed: OSError | None = None
    for step, name in list_checkpoints(folder)[:-keep]:
        if step != best_step:
            try:
                folder.delete(f"{FOLDER}/{name}")
            except OSError as error:
                failed = error
    if failed is not None:
        raise failed


def newest_checkpoints(folder: RunFolder, count: int, kept: int) -> list[str]:
    """File names of the newest `count` checkpoints that are sound and among the newest `kept`, oldest first.

    Raises ValueError for a count below two, and when fewer than two are left: nothing to average.
    """
    if count < 2:
        raise ValueError(f"an average of {count} checkpoints was asked for; it takes 2 or more")
    newest = list_checkpoints(folder)[-kept:]
    names = [name for _, name in newest if _is_sound(folder, name)]
    if len(names) < 2:
        raise ValueError(
            f"{folder.location} has {len(names)} sound checkpoint(s), and an average "
            f"needs two; train with run.keep_checkpoints={count} or more, or use 'last'"
        )
    return names[-count:]


def average(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of several `state_dict`s of one model, in float64; whole numbers (counters) are the last one's.

    Running statistics of batch norm are averaged too: every set of weights had nearly the same.
    """
    result = dict(states[-1])
    if len(states) == 1:
        return result
    for key, value in result.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            mean = torch.stack([state[key].double() for state in states]).mean(0)
            result[key] = mean.to(value.dtype)
    return result


def find_checkpoint(folder: RunFolder, which: str) -> str:
    """File name of the `best` (by evaluation.criterion), the `last`, or a named checkpoint.

    Raises ValueError with what there is.
    """
    found = list_checkpoints(folder)
    if not found:
        raise ValueError(f"{folder.location} has no checkpoints: was a training started there?")
    newest = newest_sound_checkpoint(folder)
    if newest is None:
        raise ValueError(f"every checkpoint in {folder.location}/{FOLDER} is damaged")
    if which == "last":
        return newest
    if which == "best":
        best_step = read_checkpoint(folder, newest).best_step
        sound = [name for step, name in found if step == best_step and _is_sound(folder, name)]
        if not sound:
            raise ValueError(
                f"{folder.location} has no sound best checkpoint (no validation yet, or damaged); use 'last'"
            )
        return sound[-1]
    names = [name for _, name in found]
    if which in names:
        return which
    raise ValueError(
        f"checkpoint '{which}' is not in {folder.location}; there are: last, best, {', '.join(names)}"
    )
