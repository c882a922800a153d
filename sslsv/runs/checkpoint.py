"""Write and read checkpoints: complete, checksummed files from which a run can resume.

Each checkpoint is a file `checkpoints/step_00001200-1f2e3d4c5b6a7988.pt`. The name contains the step and the
first 16 digits of the content's SHA-256, so truncated and altered files are detected. They are skipped with
a warning, and the previous checkpoint is used. An OSError does not prove that a file is damaged, so it is
always raised. Writing is atomic (folder.py), and reading never executes code (`weights_only`).
"""

import contextlib
import hashlib
import io
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from sslsv.runs.folder import RunFolder

FOLDER = "checkpoints"
SKIPPED_KINDS = ("utterances", "trial_recordings", "bank_files")  # trial recordings: of validation and test
NAME = re.compile(r"step_(\d{8,})-([0-9a-f]{16})\.pt")


@dataclass(kw_only=True)
class Position:
    """Hold the progress of a training; `step` also positions the data stream and seeds random draws."""

    step: int = 0  # optimizer steps taken; the next batch is global batch number `step`
    best_value: float | None = None  # best value of evaluation.criterion so far
    best_step: int | None = None
    stop_reason: str | None = None  # why the run ended before its last step, if it did
    validations_without_gain: int = 0  # for early stopping
    seconds: float = 0.0  # training time so far, restarts included
    # Files that could not be read: kind (utterances, trial_recordings, bank_files) -> path -> reason.
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in SKIPPED_KINDS})


@dataclass(kw_only=True)
class Checkpoint(Position):
    """Hold everything that the next step depends on, and what is needed to rebuild the model."""

    config: str  # the resolved settings as yaml
    model: dict[str, Any]
    corpus_size: tuple[int, int] = (0, 0)  # utterances and speakers of the training corpus
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)  # fp16 loss scale; empty otherwise
    environment: dict[str, str] = field(default_factory=dict)  # library versions, git commit


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the content of the file, a copy, so that training can continue while it is written."""
    buffer = io.BytesIO()
    torch.save({f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}, buffer)
    return buffer.getvalue()


def write_encoded(folder: RunFolder, content: bytes, step: int) -> str:
    """Write the content of a checkpoint to a file named after step and checksum; return the name."""
    name = f"step_{step:08d}-{_checksum(content)}.pt"
    folder.write(f"{FOLDER}/{name}", content)
    return name


def write_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> str:
    """Write `checkpoint` and return its file name."""
    return write_encoded(folder, encode_checkpoint(checkpoint), checkpoint.step)


def list_checkpoints(folder: RunFolder) -> list[tuple[int, str]]:
    """Return (step, file name) of every checkpoint, oldest first."""
    matches = [(NAME.fullmatch(name), name) for name in folder.names(FOLDER)]
    return sorted((int(match.group(1)), name) for match, name in matches if match)


def read_checkpoint(folder: RunFolder, name: str) -> Checkpoint:
    """Read one checkpoint onto the CPU; raises ValueError as `decode_checkpoint` does."""
    return decode_checkpoint(folder.read(f"{FOLDER}/{name}"), name, f"{folder.location}/{FOLDER}/{name}")


def decode_checkpoint(content: bytes, name: str, place: str) -> Checkpoint:
    """Return the checkpoint in a file's content; `name` must contain its checksum, `place` is for errors.

    Raises ValueError if the content does not match the checksum or was written by another version.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{place} is not named like a checkpoint, step_00001200-<16 hexadecimal digits>.pt")
    if _checksum(content) != match.group(2):
        raise ValueError(
            f"checkpoint {place} is damaged: its content ({len(content)} bytes) does not have the checksum "
            "in its name; delete it, or copy it here again"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if unknown := state.keys() - {f.name for f in fields(Checkpoint)}:
        raise ValueError(
            f"checkpoint {place} has {', '.join(sorted(unknown))}, which this version does not know; "
            "use the version that wrote it (named in its run.json), or train again"
        )
    return Checkpoint(**state)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _sound(folder: RunFolder, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if _checksum(folder.read(f"{FOLDER}/{name}")) in name:
            yield name
        else:
            location = f"{folder.location}/{FOLDER}/{name}"
            warnings.warn(f"skipping damaged checkpoint {location}", stacklevel=3)


def newest_undamaged_checkpoint(folder: RunFolder) -> str | None:
    """Return the name of the newest checkpoint that is not damaged, or None."""
    return next(_sound(folder, [name for _, name in reversed(list_checkpoints(folder))]), None)


def newest_checkpoints(folder: RunFolder, count: int, kept: int) -> list[str]:
    """Return the names of the newest `count` undamaged checkpoints among the newest `kept`, oldest first.

    Raises ValueError if fewer than two are requested or left, since an average needs two.
    """
    names = list(_sound(folder, [name for _, name in list_checkpoints(folder)[-kept:]]))
    if min(count, len(names)) < 2:
        raise ValueError(
            f"an average needs 2 or more checkpoints: {count} were requested, and {folder.location} has "
            f"{len(names)} undamaged one(s); train with a larger run.keep_checkpoints, or use 'last'"
        )
    return names[-count:]


def find_checkpoint(folder: RunFolder, which: str) -> str:
    """Return the file name of the `best`, `last` or named checkpoint; ValueError lists the existing ones."""
    steps = {name: step for step, name in list_checkpoints(folder)}
    if which in steps:
        return which
    if not steps:
        raise ValueError(
            f"{folder.location} has no checkpoints: no training began there, or it ended before the first."
        )
    chosen = newest_undamaged_checkpoint(folder) if which in ("last", "best") else None
    if which == "best" and chosen is not None:
        best_step = read_checkpoint(folder, chosen).best_step
        chosen = next(_sound(folder, [name for name, step in steps.items() if step == best_step]), None)
    if chosen is None:
        raise ValueError(
            f"checkpoint {which!r} is not in {folder.location} or is damaged (or, for 'best', nothing was "
            f"validated yet); choose one of last, best, {', '.join(steps)}"
        )
    return chosen


def average(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of several `state_dict`s of one model, in float64; counters are taken from the last.

    Running statistics of batch norm are averaged too, because they hardly differ between the checkpoints.
    """
    result = dict(states[-1])
    for key, value in result.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            mean = torch.stack([state[key].double() for state in states]).mean(0)
            result[key] = mean.to(value.dtype)
    return result


def prune_checkpoints(folder: RunFolder, newest: str, keep: int, best_step: int | None) -> None:
    """Delete all checkpoints except `newest`, the `keep - 1` before it, and the best one.

    This also deletes damaged checkpoints of later steps, which were skipped, and partial files of killed
    processes. Errors of deletion are ignored.
    """
    steps = {name: step for step, name in list_checkpoints(folder)}
    names = list(steps)
    kept = names[: names.index(newest) + 1][-keep:]
    kept += [name for name in names if steps[name] == best_step]
    for name in folder.names(FOLDER):
        if name not in kept and (name in steps or name.endswith(".part")):
            with contextlib.suppress(OSError):
                folder.delete(f"{FOLDER}/{name}")


class CheckpointWriter:
    """Write the checkpoints of one run in a thread, so that training does not wait for a disk or an upload.

    `save` copies the state while training waits. The thread then computes the checksum, writes the file and
    deletes old checkpoints, one checkpoint at a time and in order.
    """

    def __init__(self, folder: RunFolder, *, keep: int, every_minutes: float) -> None:
        self.folder, self.keep, self.every_minutes = folder, keep, every_minutes
        self.last_saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def is_due(self) -> bool:
        """Return whether the last save is at least `every_minutes` old."""
        return time.monotonic() - self.last_saved >= 60 * self.every_minutes

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy `checkpoint` to host memory and start to write it; its tensors may change afterwards.

        Waits for the previous write first and raises its OSError, such as that of a full disk.
        """
        self.wait()
        content = encode_checkpoint(checkpoint)
        self._pending = self._thread.submit(self._write, content, checkpoint.step, checkpoint.best_step)
        self.last_saved = time.monotonic()

    def wait(self) -> None:
        """Wait until everything saved is in the run folder; raises OSError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish the last write; its error is lost unless `wait` was called before."""
        self._thread.shutdown()

    def _write(self, content: bytes, step: int, best_step: int | None) -> None:
        prune_checkpoints(self.folder, write_encoded(self.folder, content, step), self.keep, best_step)
