"""Run the training workers until the run is finished, in a loop around Ray Train.

Each iteration runs one Ray trainer. It ends when the run is finished, when workers crash, or when they save
and stop because machines leave or join. The next iteration then starts as many workers as fit.
"""

import contextlib
import math
import os
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import BackendConfig, TrainingFailedError
from ray.train.backend import Backend
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from sslsv.cluster.connect import CapacityError, cluster_state, request_machines, wait_for_room, worker_bundle
from sslsv.config import Config, ResourcesConfig, to_yaml, usable_counts
from sslsv.data.audio import AudioError
from sslsv.runs.display import LiveLine
from sslsv.runs.folder import HELD, MARK, RunFolder, absolute, below
from sslsv.runs.log import wandb_environment, wandb_mode

# Ray Train's controller imports this module before it starts the first worker. PyTorch takes two seconds to
# import, so only the functions that need it import it.

Job = dict[str, Any]

# A separate environment also keeps training workers out of the low-priority processes of data tasks.
WORKER_ENVIRONMENT = {
    "SSLSV_ROLE": "trainer",
    # The process keeps the memory of a step's activations for the next step, in huge pages. If it returned
    # the memory, the system would zero each page again, which took up to a third of a step on CPUs.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch: huge pages
}


def fit(
    config: Config,
    folder: RunFolder,
    line: LiveLine,
    task: Callable[..., dict[str, Any]] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run `task(training, **arguments)` in every training process; without a task, `Training.run`.

    `config.resources` is the request that `connection` yields; `line` shows the progress. Returns rank 0's
    result (a summary). On failure, returns `error` (one sentence) and `is_system_error`, which is True if the
    cause is Ray, storage, network or missing machines. After a crash, workers restart from the newest
    checkpoint, up to `run.max_failures` times in a row without a newer checkpoint.
    """
    resources = config.resources
    job = {
        "config": to_yaml(with_absolute_paths(config)),
        "location": folder.location,
        "task": task,
        "arguments": arguments,
        "counts": usable_counts(resources, config.train),
        # ids of the machines on which the last restart found no room for more workers
        "full_machines": None,
        "mark": uuid.uuid4().hex,  # shows each worker that it sees this folder (`check_sees_run`)
        "wandb_mode": wandb_mode(config.run.wandb),
        "environment": wandb_environment(),  # not in Ray's environment, which Ray's logs show
    }
    folder.write(MARK, str(job["mark"]).encode())
    line.follow(folder)
    try:
        return fit_until_done(job, config, folder, line)
    except CapacityError as error:
        return {"error": f"training stopped: {error}; {resume_hint(folder)}", "is_system_error": True}
    except (TrainingFailedError, RayError) as error:
        return describe_failure(error, folder)
    finally:
        request_machines([])
        with contextlib.suppress(RayError, OSError):  # leftover files do no harm
            release_reservation(folder)
            folder.delete_folder("ray")


def with_absolute_paths(config: Config) -> Config:
    """Return the settings with absolute paths, because workers run in another folder."""
    paths = {key: getattr(config.encoder, key, None) for key in ("init", "weights")}
    absolute_paths = {key: absolute(path) for key, path in paths.items() if path is not None}
    data = replace(config.data, root=absolute(config.data.root))
    return replace(config, data=data, encoder=replace(config.encoder, **absolute_paths))


def fit_until_done(job: Job, config: Config, folder: RunFolder, line: LiveLine) -> dict[str, Any]:
    """Start as many workers as fit, repeatedly, until they return a result."""
    resources, failures, furthest_step, last_count = config.resources, 0, -1, 0
    while True:
        release_reservation(folder)
        count, cluster = wait_for_room(resources, job["counts"], 60 * resources.wait_minutes, line.say)
        machines = sorted(cluster.machines)
        if count <= last_count:  # no gain, so the workers must not stop again to grow on these machines
            job["full_machines"] = machines
        last_count = 0
        line.stage(f"starting {count} training worker{'s' * (count > 1)}, opening the corpus")
        try:
            return fit_once(job, resources, folder, count)
        except (TrainingFailedError, RayError) as error:
            from sslsv.training.loop import Interrupted

            # The workers did not start in time: another job took the resources, or a machine died.
            # Ray does not export the class of this error.
            failure = getattr(error, "controller_failure", None)
            if type(failure).__name__ == "WorkerGroupStartupTimeoutError":
                job["full_machines"] = machines
                continue
            interruption = next((c for c in causes_of(error) if isinstance(c, Interrupted)), None)
            if interruption is not None:
                line.say(str(interruption))
                last_count = count
            elif any(isinstance(cause, AudioError) for cause in causes_of(error)):
                raise  # the next attempt would read the same files
            # A preempted machine may disappear before its workers report that they saved.
            elif not cluster_state().leaving & set(machines):
                # Only consecutive failures without a newer checkpoint between them end the run.
                step = newest_step(folder)
                failures = 1 if step > furthest_step else failures + 1
                furthest_step = max(step, furthest_step)
                if 0 <= config.run.max_failures < failures:
                    raise


class GpusOfAll(Backend):
    """Make the GPUs of all workers of a machine visible to each of them, as NCCL needs."""

    share_cuda_visible_devices = True


class NoProcessGroup(BackendConfig):
    """Leave the process group to the workers (`join_process_group`), so Ray's controller needs no PyTorch."""

    backend = "as the workers choose"  # TorchTrainer requires a name
    backend_cls = GpusOfAll  # what Ray runs before the workers start


def start_worker(job: Job) -> dict[str, Any]:
    """Run a training worker."""
    from sslsv.cluster.worker import run_worker

    return run_worker(job)


def fit_once(job: Job, resources: ResourcesConfig, folder: RunFolder, count: int) -> dict[str, Any]:
    """Run `count` workers until they end; raises TrainingFailedError if one crashes."""
    from ray.train.torch import TorchTrainer

    timeout = math.ceil(60 * resources.hang_minutes)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(timeout)  # Ray passes it on to its controller
    trainer = TorchTrainer(
        start_worker,  # type: ignore[arg-type]  # its result is `return_value`
        train_loop_config=job,
        torch_config=NoProcessGroup(),  # type: ignore[arg-type]  # any BackendConfig will do
        scaling_config=ray.train.ScalingConfig(
            num_workers=count, use_gpu=bool(resources.gpu), resources_per_worker=worker_bundle(resources)
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Ray Train v1
            # Ray's own files get a new folder each time, because a restart reads only the files of the run.
            name=f"ray/{uuid.uuid4().hex}",
            storage_path=folder.root,
            storage_filesystem=None if folder.is_local else folder.filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=0,
                controller_failure_limit=0,  # type: ignore[call-arg]  # as above
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        return dict(trainer.fit().return_value)  # type: ignore[attr-defined]  # as above
    except SystemExit as error:  # Ray Train turns Ctrl-C into this
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Ray Train's handler would call an ended controller


def causes_of(error: Exception) -> list[Any]:
    """Return the exceptions that the workers raised."""
    failures = getattr(error, "worker_failures", None) or {}
    return [getattr(failure, "cause", None) or failure for failure in failures.values()]


def describe_failure(error: Exception, folder: RunFolder) -> dict[str, Any]:
    """Return `error` (one sentence) and `is_system_error`, which is True if Ray, storage or network failed.

    Writes the traceback of the worker, or Ray's message, to `failure.txt` in the run folder.
    """
    failures = getattr(error, "worker_failures", None) or {}
    rank = min(failures, default=None)
    process = "Ray's controller of the training" if rank is None else f"training worker {rank}"
    cause = failures.get(rank) or getattr(error, "controller_failure", None) or error
    with contextlib.suppress(OSError):
        folder.write("failure.txt", "\n".join(getattr(cause, "__notes__", [str(error)])).encode())
    original = getattr(cause, "cause", None) or cause
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    # Ray's errors end with the cause, after a traceback; other errors are unclear without their class.
    is_ray_error = bool(lines) and isinstance(original, RayError)
    message = lines[-1] if is_ray_error else ": ".join([type(original).__name__, *lines[:1]])
    path = below(folder.location, "failure.txt")
    is_system_error = isinstance(error, RayError) or any(isinstance(c, OSError) for c in causes_of(error))
    condition = "" if is_system_error else " once that is fixed"
    sentence = f"{process} failed: {message} (details in {path}); {resume_hint(folder)}{condition}"
    return {"error": sentence, "is_system_error": is_system_error}


def newest_step(folder: RunFolder) -> int:
    """Return the step of the newest checkpoint; -1 if there is none or the storage does not answer."""
    from sslsv.runs.checkpoint import list_checkpoints

    with contextlib.suppress(OSError):
        return max((step for step, _ in list_checkpoints(folder)), default=-1)
    return -1


def resume_hint(folder: RunFolder) -> str:
    """Return a hint on what the same command does after a failure."""
    step = newest_step(folder)
    hint = f"the same command (without --fresh) goes on from step {step}"
    return hint if step >= 0 else "the same command starts from the beginning"


def release_reservation(folder: RunFolder) -> None:
    """Release the resources that earlier workers of this run still reserve because their driver was killed.

    Ray itself keeps such a reservation until the entire job ends; a sweep of many trials is one job.
    """
    with contextlib.suppress(OSError):
        group_id = folder.read(HELD).decode()
        folder.delete(HELD)
        if placement_group_table().get(group_id, {"state": "REMOVED"})["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
