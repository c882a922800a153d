"""Run a sweep with Ray Tune, which finds resources for segments and restarts them if their process dies.

Each trial of Tune is one segment (see schedulers.py); `Sweep` chooses the next one. A segment ends by itself
at its rung, so Tune stops none. Stopping one would leave reservations behind if it has several workers.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Ray Tune reads these at its start: no loggers of its own, Ctrl-C raises an exception, few state snapshots.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune
from ray.tune.search import Searcher as TuneSearcher

from sslsv.cluster.connect import Machine, room_for, total_of
from sslsv.cluster.fit import release_reservation
from sslsv.config import ResourcesConfig
from sslsv.runs.environment import usable_cpus
from sslsv.runs.folder import RunFolder, below
from sslsv.runs.log import wandb_environment, wandb_mode
from sslsv.search.schedulers import Decision
from sslsv.search.sweep import Sweep
from sslsv.search.trial import run_segment
from sslsv.settings import Failed, refuse_if


@dataclass(frozen=True)
class Slots:
    """Hold how many trials run at once, and the resources of each trial with all values filled in."""

    at_once: int
    gpus: float  # share of a GPU for each training process; 0 on CPUs
    resources: ResourcesConfig

    def describe(self) -> str:
        """Return a description in one line."""
        own = self.resources
        device = f"{self.gpus:g} GPU" if self.gpus else f"{own.threads_per_worker} thread(s)"
        return (
            f"{self.at_once} trials at once, each {own.workers} worker(s) with {device} and "
            f"{own.cpus_per_worker:g} CPUs, {own.data_tasks} data process(es) with {own.cpus_per_data_task:g}"
        )


def find_slots(
    resources: ResourcesConfig,
    gpus: float,
    free: Machine,
    nodes: Sequence[Machine],
    trials: int,
    wanted: int | None,
) -> Slots:
    """Find how many of the `trials` fit at once, or take `wanted` if that many fit.

    `gpus` is the share of a GPU for each training process, 0 on CPUs; `free` holds the free resources of the
    cluster, `nodes` all resources of each machine. Raises ValueError if too few fit, because Ray would let
    trials wait forever, or would leave no CPU for data tasks.
    """
    workers, cpus = resources.worker_range[1], free.get("CPU", 0.0)
    refuse_if(
        workers > 1 and 0 < gpus < 1,
        f"gpus_per_trial is {gpus} and resources.workers {workers}; only trials of one worker share a GPU",
    )
    per_gpu = int(1 / gpus + 1e-6) if gpus else 0  # trials that share a GPU; each counts as one GPU below
    machines = [{**node, "GPU": int(node.get("GPU", 0.0)) * per_gpu} for node in nodes]
    more_cpus = cpus - total_of(machines, "CPU")  # minus the CPUs that other jobs hold
    fitting = min(room_for(replace(resources, gpu=gpus > 0), machines, more_cpus) // workers, trials)
    worker_cpus, free_gpus = resources.cpus_per_worker + resources.cpus_per_data_task, free.get("GPU", 0.0)
    if gpus:
        fitting = min(fitting, int(free_gpus / gpus + 1e-6) // workers)
    at_once = max(fitting, 1) if wanted is None else min(wanted, trials)
    refuse_if(
        not 1 <= at_once <= fitting,
        f"{at_once} trial(s) at once should run, but {fitting} fit: each takes {workers * worker_cpus:g} of "
        f"the {cpus:g} free CPUs and {workers * gpus:g} of the {free_gpus:g} free GPUs; lower --concurrent, "
        "resources.workers, or the CPUs reserved for each (they are only counted, not enforced)",
    )
    cores = usable_cpus() if len(nodes) == 1 else int(total_of(nodes, "CPU"))
    threads = resources.threads_per_worker or max(1, cores // (at_once * workers))
    data_cpus = cpus / at_once - workers * resources.cpus_per_worker
    data_tasks = int(data_cpus / resources.cpus_per_data_task + 1e-6)
    data_tasks = max(min(resources.data_tasks or data_tasks, data_tasks), workers)
    filled = replace(resources, gpu=gpus > 0, threads_per_worker=threads, data_tasks=data_tasks)
    return Slots(at_once, gpus, filled)


class Segments(TuneSearcher):
    """Tell Tune which segment to run next, and the sweep how it ended."""

    def __init__(self, sweep: Sweep, at_once: int) -> None:
        super().__init__()
        self.sweep, self.at_once = sweep, at_once
        self.segments: dict[str, Decision] = {}  # keys: Tune's trial ids

    def suggest(self, trial_id: str) -> Any:
        """Return the next segment, None if none can start now, or FINISHED if none is left."""
        segment, sweep = None, self.sweep
        with self._halt_on_error():
            segment = sweep.next_segment(self.at_once)
        if segment is None:
            return str(TuneSearcher.FINISHED) if sweep.is_over or sweep.halted is not None else None
        self.segments[trial_id] = segment
        location = sweep.trial_folder(segment.index).location
        return {"location": location, "until_epoch": sweep.rungs[segment.rung]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how the segment ended."""
        segment = self.segments.pop(trial_id)
        with self._halt_on_error():
            if error or result is None:
                folder = self.sweep.trial_folder(segment.index)
                release_reservation(folder)
                self.sweep.end_segment(segment, "failed", _crash_reason(folder))
            elif result["state"] == "interrupted":
                self.sweep.requeue(segment, result["why"])
            else:
                self.sweep.end_segment(segment, result["state"], result["why"])

    @contextlib.contextmanager
    def _halt_on_error(self) -> Iterator[None]:
        """Halt the sweep (start no more segments) if its own files can't be read or written.

        When the sweep is resumed, a segment without a recorded outcome continues from its last checkpoint.
        """
        try:
            yield
        except OSError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.sweep.halted = f"the files of the sweep can't be read or written: {reason}"

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher to resume; we resume from the sweep's files


def run_sweep(sweep: Sweep, slots: Slots, group: str) -> None:
    """Run all remaining segments; `group` is the name of the sweep in wandb.

    Raises Failed if Ray ended all trials, several in a row had storage or network errors, or the sweep's
    files can't be read or written.
    """
    if sweep.is_over:
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # results.csv says which trial failed, and why
    resources, folder, mode = sweep.base.resources, sweep.folder, wandb_mode(sweep.base.run.wandb)
    environment = wandb_environment() | {"WANDB_RUN_GROUP": group}

    def segment(job: dict[str, Any]) -> dict[str, str]:
        return run_segment(RunFolder.at(job["location"]), job["until_epoch"], mode, environment)

    # Several workers reserve their own resources through Ray Train, and the process that starts them must not
    # take CPUs from their data tasks. Tune refuses an empty request, so it requests one byte of memory.
    single_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": slots.gpus} if slots.gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(segment, single_worker if resources.workers == 1 else {"CPU": 0, "memory": 1}),
        tune_config=tune.TuneConfig(
            search_alg=Segments(sweep, slots.at_once),
            num_samples=-1,  # until the searcher returns FINISHED
            reuse_actors=True,  # processes run many segments, because a new one imports PyTorch for seconds
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"ray/{uuid.uuid4().hex}",
            storage_path=folder.root,
            storage_filesystem=None if folder.is_local else folder.filesystem,
            failure_config=tune.FailureConfig(max_failures=sweep.space.max_failures),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (RuntimeError, tune.TuneError) as error:  # for example when all processes run out of memory
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        is_traceback = lines[0].startswith("Traceback")  # its last line names the error
        sweep.halted = f"Ray ended all trials: {lines[-1 if is_traceback else 0].strip()}"
    finally:
        with contextlib.suppress(OSError):  # Tune's own files; leftovers do no harm
            folder.delete_folder("ray")
    if sweep.halted is not None:
        raise Failed(f"{sweep.halted}; the same command with --resume goes on")


def _crash_reason(folder: RunFolder) -> str:
    """Return in one sentence why a trial's process died."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in folder.read("failure.txt").decode().splitlines() if line.strip()]
        return f"{lines[-1].strip()} (details in {below(folder.location, 'failure.txt')})"
    return "its process died: killed, or out of memory"
