"""Run the training workers until the run is finished: one loop in the command, around Ray's TorchTrainer.

A trainer always ends by itself.  Workers that save and end because machines go or come, and workers that
crash, are started again by the next turn of the loop, as many as then fit.
"""

import contextlib
import math
import os
import posixpath
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from sslsv.cluster.capacity import CapacityError, Machine, Share, fitting_workers, total_of, worker_bundle
from sslsv.cluster.connect import PAUSE_SECONDS, look
from sslsv.cluster.worker import HELD, run_worker, train_worker
from sslsv.config import Config, ResourcesConfig, to_yaml
from sslsv.runs.checkpoint import list_checkpoints
from sslsv.runs.display import live_display
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import wandb_environment, wandb_mode
from sslsv.runs.storage import absolute, below
from sslsv.worker_counts import usable_counts

SETTLING_SECONDS = 10.0  # until what the last workers held is free again
REMINDER_SECONDS = 60.0  # between two sentences about what is waited for, doubled each time

# An environment of their own also keeps training workers out of processes that data tasks have niced.
WORKER_ENVIRONMENT = {
    "SSLSV_ROLE": "trainer",
    # Activations of a step are freed and needed again in the next: kept by the process and in large pages.
    # Handed back to the system, each page would be zeroed anew, which took up to a third of a CPU's step.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch: huge pages
}


class NoRoomError(RuntimeError):
    """No machines came back for the workers; the message is for the user."""


def fit(
    config: Config,
    folder: RunFolder,
    share: Share,
    *,
    worker: Callable[[dict[str, Any]], dict[str, Any]] = train_worker,
    **extra: Any,
) -> dict[str, Any]:
    """Run `worker` in every training process; returns the first one's summary, or `{"error": sentence}`.

    Beside an error stands `is_of_system`: whether storage, network or a lack of machines was its cause.
    `extra` is added to the job that a worker is given.  After a crash workers start again from the newest
    checkpoint, `run.max_failures` times without a newer one.
    """
    resources, train = config.resources, config.train
    if train.precision == "fp16" and not share.has_gpu:
        raise CapacityError(
            "train.precision is 'fp16', which needs a GPU, and there is none; use 'bf16' or 'fp32'"
        )
    # Ray hands it on to what watches the workers.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(60 * resources.hang_minutes)
    counts = usable_counts(resources.workers, train.batch_size, train.chunk_size)
    job = {
        # Workers run in another folder.
        "config": to_yaml(replace(config, data=replace(config.data, root=absolute(config.data.root)))),
        "storage": posixpath.dirname(folder.root) if folder.is_local else folder.storage,
        "name": folder.name,
        "worker": worker,
        "has_gpu": share.has_gpu,
        "counts": counts,
        "futile": None,
        "wandb_mode": wandb_mode(config.run.wandb),
        "environment": wandb_environment(),  # in the job and not in Ray's environment, whose logs show it
        "cpus_of_others": share.cpus_of_others,
        "can_grow": look().can_grow,
        **extra,
    }
    with live_display(folder, config.run.progress) as notice:
        room = Room(resources, counts, share, notice)
        crashes, last = Crashes(folder, config.run.max_failures), 0
        try:
            while True:
                free_what_is_held(folder)
                count, machines = room.wait()
                if count <= last:  # there was no room for more after all
                    job["futile"] = machines
                try:
                    result = _run_once(job, folder, resources, count)
                except (ray.train.TrainingFailedError, RayError) as error:
                    if _found_no_slots(error):  # others were faster, or a machine has just died
                        job["futile"] = machines
                        continue
                    if crashes.are_too_many():
                        return {
                            "error": failure_sentence(error, folder),
                            "is_of_system": _is_of_system(error),
                        }
                    last = 0
                else:
                    if "interrupted" not in result:
                        return result
                    notice(result["interrupted"])
                    last = count
                room.clear()
        except NoRoomError as error:
            return {"error": f"training stopped: {error}; {GOES_ON}", "is_of_system": True}
        except RayError as error:  # the cluster itself does not answer any more
            return {"error": failure_sentence(error, folder), "is_of_system": True}
        finally:
            with contextlib.suppress(RayError):
                free_what_is_held(folder)
            delete_notes_of_ray(folder)


def _run_once(
    job: dict[str, Any], folder: RunFolder, resources: ResourcesConfig, count: int
) -> dict[str, Any]:
    """Run so many workers until they end; raises what Ray Train makes of a crash."""
    seconds = math.ceil(60 * resources.hang_minutes)
    trainer = TorchTrainer(
        run_worker,  # type: ignore[arg-type]  # its result comes back as return_value
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if job["has_gpu"] else "gloo", timeout_s=seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=count,
            use_gpu=job["has_gpu"],
            resources_per_worker=worker_bundle(resources, job["has_gpu"]),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Ray Train v1
            # Ray's own notes about the run; ours are what a restart reads, so these are new each time.
            name=f"ray/{uuid.uuid4().hex}",
            storage_path=folder.root,
            storage_filesystem=None if folder.is_local else folder.filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=0,
                controller_failure_limit=0,  # type: ignore[call-arg]  # as above
                max_preemption_failures=0,
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with _own_interrupt_handler():
        try:
            summary: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]  # as above
        except SystemExit as error:  # what Ray Train makes of a Ctrl-C
            raise KeyboardInterrupt from error
    return summary


@contextlib.contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Take back the handling of Ctrl-C, which Ray Train keeps for a controller that has ended."""
    earlier = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, earlier)


class Room:
    """Waits until workers fit on the machines that stay, and says now and then what is waited for."""

    def __init__(
        self, resources: ResourcesConfig, counts: list[int], share: Share, notice: Callable[[str], None]
    ) -> None:
        self.resources, self.counts, self.share, self.notice = resources, counts, share, notice
        self.clear()

    def clear(self) -> None:
        """Begin to wait anew: workers have run."""
        self.since = time.monotonic()
        self.next_reminder = self.since + SETTLING_SECONDS

    def wait(self) -> tuple[int, list[str]]:
        """Return how many workers to start, and the machines that are there.

        On fewer machines than are there only after a moment, in which the last workers' places get free.
        Raises NoRoomError when there have been no places for too long.
        """
        while True:
            cluster = look()
            count = self._fitting(cluster.free)
            waited = time.monotonic() - self.since
            if count and (waited >= SETTLING_SECONDS or count >= self._fitting(cluster.machines)):
                return count, sorted(cluster.machines)
            minutes = self.resources.wait_minutes
            if waited > 60 * minutes and not self.share.can_grow and cluster.coming == 0:
                raise NoRoomError(
                    f"there has been no {self._wanted()} for {minutes:g} minutes (resources.wait_minutes): "
                    "machines were lost and none came back"
                )
            if time.monotonic() >= self.next_reminder:
                source = "the autoscaler adds machines" if self.share.can_grow else "machines come back"
                self.notice(f"waiting for {self._wanted()}, until {source} ({waited:.0f} s so far)")
                self.next_reminder = time.monotonic() + max(waited, REMINDER_SECONDS)
            time.sleep(PAUSE_SECONDS)

    def _fitting(self, machines: dict[str, Machine]) -> int:
        there = list(machines.values())
        return fitting_workers(self.resources, self.counts, self.share.has_gpu, there, total_of(there, "CPU"))

    def _wanted(self) -> str:
        return (
            f"room for {self.counts[0]} training worker(s) with {self.resources.cpus_per_worker:g} CPUs"
            f"{' and a GPU' if self.share.has_gpu else ''} each, and for their data processes"
        )


class Crashes:
    """Counts crashes since the last new checkpoint.

    A week on machines that are lost now and then is no failure, the same crash at the same step is.
    """

    def __init__(self, folder: RunFolder, most: int) -> None:
        self.folder, self.most = folder, most
        self.count, self.newest_step = 0, -1

    def are_too_many(self) -> bool:
        """Count one more, and compare."""
        found: list[tuple[int, str]] = []
        with contextlib.suppress(OSError):  # storage that does not answer shows no progress
            found = list_checkpoints(self.folder)
        newest = max((step for step, _ in found), default=-1)
        self.count = 1 if newest > self.newest_step else self.count + 1
        self.newest_step = max(newest, self.newest_step)
        return 0 <= self.most < self.count


GOES_ON = "the same command goes on from the last checkpoint"


def failure_sentence(error: Exception, folder: RunFolder) -> str:
    """Say in one sentence what made training fail; the traceback goes to `failure.txt` in the run folder."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, cause = next(iter(failures.items()))
        who = f"training worker {rank}"
    else:
        cause = getattr(error, "controller_failure", None) or error
        who = "Ray's controller of the training"
    original = getattr(cause, "cause", None) or cause
    with contextlib.suppress(OSError):
        folder.write("failure.txt", str(cause).encode())
    lines = [line for line in str(original).strip().splitlines() if line.strip()] or [type(original).__name__]
    return (
        f"{who} failed: {lines[-1].strip()} (details in {below(folder.location, 'failure.txt')}); {GOES_ON}"
    )


def _is_of_system(error: Exception) -> bool:
    """Tell whether storage or network of a worker failed, which may be back."""
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(isinstance(getattr(cause, "cause", None) or cause, OSError) for cause in causes)


def _found_no_slots(error: Exception) -> bool:
    """Tell whether the workers have not been started for want of room; Ray does not export the class."""
    return type(getattr(error, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError"


def free_what_is_held(folder: RunFolder) -> None:
    """Give back what earlier workers of this run had reserved, if what started them was killed.

    Ray itself keeps such a reservation until its whole job has ended, such as a sweep of many trials.
    """
    with contextlib.suppress(OSError):
        held = folder.read(HELD).decode()
        folder.delete(HELD)
        group = ray.util.placement_group_table().get(held)
        if group is not None and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(held))))


def delete_notes_of_ray(folder: RunFolder) -> None:
    """Delete Ray Train's notes about a run that has ended; what can't be deleted is only litter."""
    try:
        folder.delete_folder("ray")
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"{folder.path('ray')}, which nothing needs, can't be deleted: {reason}", file=sys.stderr)
