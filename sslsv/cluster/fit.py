"""Run the training workers until the run is finished: one loop in the command, around Ray's TorchTrainer.

A trainer always ends by itself.  Workers that save and end because machines go or come, and workers that
crash, are started again by the next turn of the loop, as many as then fit.
"""

import contextlib
import math
import os
import posixpath
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import PreemptionError, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from sslsv.cluster.capacity import CapacityError, Machine, Share, bundles_of, room_for, worker_bundle
from sslsv.cluster.connect import PAUSE_SECONDS, ask_for, look
from sslsv.cluster.worker import HELD, train_worker
from sslsv.config import Config, ResourcesConfig, to_yaml, usable_counts
from sslsv.runs.checkpoint import list_checkpoints
from sslsv.runs.display import live_display
from sslsv.runs.folder import RunFolder, absolute, below
from sslsv.runs.log import wandb_environment, wandb_mode
from sslsv.training.interruption import Interrupted

Job = dict[str, Any]

SETTLING_SECONDS = 10.0  # until what the last workers held is free again
REMINDER_SECONDS = 60.0  # between two sentences about what is waited for, doubled each time
GOES_ON = "the same command goes on from the last checkpoint"

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
    worker: Callable[[Job], dict[str, Any]] = train_worker,
    **extra: Any,
) -> dict[str, Any]:
    """Run `worker` in every training process; returns the first one's summary, or `{"error": sentence}`.

    Beside an error stands `is_of_system`: whether storage, network or a lack of machines was its cause.
    `extra` is added to the job that a worker is given.  After a crash workers start again from the newest
    checkpoint, `run.max_failures` times without a newer one.
    """
    if config.train.precision == "fp16" and not share.has_gpu:
        raise CapacityError(
            "train.precision is 'fp16', which needs a GPU, and there is none; use 'bf16' or 'fp32'"
        )
    job = {
        # Workers run in another folder.
        "config": to_yaml(replace(config, data=replace(config.data, root=absolute(config.data.root)))),
        "storage": posixpath.dirname(folder.root) if folder.is_local else folder.storage,
        "name": folder.name,
        "worker": worker,
        "has_gpu": share.has_gpu,
        "counts": usable_counts(config.resources.workers, config.train.batch_size, config.train.chunk_size),
        "futile": None,  # machines on which no more workers than now were found to fit
        "wandb_mode": wandb_mode(config.run.wandb),
        "environment": wandb_environment(),  # in the job and not in Ray's environment, whose logs show it
        **extra,
    }
    with live_display(folder, config.run.progress) as notice:
        try:
            return fit_until_done(job, config, folder, notice)
        except NoRoomError as error:
            return {"error": f"training stopped: {error}; {GOES_ON}", "is_of_system": True}
        except (TrainingFailedError, RayError) as error:
            return {"error": failure_sentence(error, folder), "is_of_system": is_of_system(error)}
        finally:
            ask_for([])
            with contextlib.suppress(RayError, OSError):  # what can't be deleted is only litter
                free_what_is_held(folder)
                folder.delete_folder("ray")


def fit_until_done(
    job: Job, config: Config, folder: RunFolder, notice: Callable[[str], None]
) -> dict[str, Any]:
    """Start as many workers as fit, again and again, until they return a result."""
    failures, newest_step, last = 0, -1, 0
    since = time.monotonic()
    while True:
        free_what_is_held(folder)
        count, machines = wait_for_room(job, config.resources, since, notice)
        if count <= last:  # there was no room for more after all
            job["futile"] = machines
        last = 0
        try:
            return fit_once(job, config.resources, folder, count)
        except (TrainingFailedError, RayError) as error:
            # Others were faster, or a machine has just died.  Ray does not export the class of this error.
            failure = getattr(error, "controller_failure", None)
            if type(failure).__name__ == "WorkerGroupStartupTimeoutError":
                job["futile"] = machines
                continue
            interrupted = next((cause for cause in causes_of(error) if isinstance(cause, Interrupted)), None)
            if interrupted is not None:
                notice(str(interrupted))
                last = count
            # A machine may go before its workers could say that they saved because it will.
            elif not isinstance(error, PreemptionError) and not look().leaving & set(machines):
                step = -1
                with contextlib.suppress(OSError):  # storage that does not answer shows no progress
                    step = max((step for step, _ in list_checkpoints(folder)), default=-1)
                # Machines that are lost now and then are no failure, the same crash at the same step is.
                failures = 1 if step > newest_step else failures + 1
                newest_step = max(step, newest_step)
                if 0 <= config.run.max_failures < failures:
                    raise
        since = time.monotonic()


def fit_once(job: Job, resources: ResourcesConfig, folder: RunFolder, count: int) -> dict[str, Any]:
    """Run so many workers until they end; raises what Ray Train makes of a crash."""
    seconds = math.ceil(60 * resources.hang_minutes)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(seconds)  # Ray hands it on to its controller
    trainer = TorchTrainer(
        job["worker"],  # its result comes back as return_value
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
    handler = signal.getsignal(signal.SIGINT)
    try:
        summary: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]  # as above
    except SystemExit as error:  # what Ray Train makes of a Ctrl-C
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Ray Train's would ask a controller that has ended
    return summary


def wait_for_room(
    job: Job, resources: ResourcesConfig, since: float, notice: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Return how many workers to start, and the machines that are there.

    They are fewer than the machines hold only after a moment, in which the last workers' places get free.
    Raises NoRoomError when there was no room for too long; `since` is when the last workers ended.
    """
    counts, has_gpu, next_reminder = job["counts"], job["has_gpu"], SETTLING_SECONDS
    wanted = (
        f"room for {counts[0]} training worker(s) with {resources.cpus_per_worker:g} CPUs"
        f"{' and a GPU' if has_gpu else ''} each, and for their data processes"
    )

    def fitting(machines: dict[str, Machine]) -> int:
        room = room_for(resources, has_gpu, list(machines.values()))
        return max((count for count in counts if count <= room), default=0)

    while True:
        cluster, waited = look(), time.monotonic() - since
        count = fitting(cluster.free)
        if count and (waited >= SETTLING_SECONDS or count >= fitting(cluster.machines)):
            return count, sorted(cluster.machines)
        if waited > 60 * resources.wait_minutes and cluster.coming == 0:
            raise NoRoomError(
                f"there has been no {wanted} for {resources.wait_minutes:g} minutes "
                "(resources.wait_minutes): machines were lost and none came back"
            )
        if waited >= next_reminder:
            notice(f"waiting for {wanted} ({waited:.0f} s so far)")
            next_reminder = waited + max(waited, REMINDER_SECONDS)
        ask_for(bundles_of(resources, has_gpu, counts[-1]))
        time.sleep(PAUSE_SECONDS)


def causes_of(error: Exception) -> list[Any]:
    """Return what the workers raised, in the order of their ranks."""
    failures = getattr(error, "worker_failures", None) or {}
    return [getattr(cause, "cause", None) or cause for _, cause in sorted(failures.items())]


def is_of_system(error: Exception) -> bool:
    """Tell whether Ray itself, or storage or network of a worker failed, which may be back."""
    return isinstance(error, RayError) or any(isinstance(cause, OSError) for cause in causes_of(error))


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


def free_what_is_held(folder: RunFolder) -> None:
    """Give back what earlier workers of this run had reserved, if what started them was killed.

    Ray itself keeps such a reservation until its whole job has ended, such as a sweep of many trials.
    """
    with contextlib.suppress(OSError):
        held = folder.read(HELD).decode()
        folder.delete(HELD)
        if placement_group_table().get(held, {"state": "REMOVED"})["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(held))))
