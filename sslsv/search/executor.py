"""Ray Tune as the executor of a sweep: it finds places for legs, and starts them again when they die.

A trial of Tune is a leg here.  Which leg comes next is asked of `Sweep`; nothing is ever stopped from
outside, because a leg ends by itself at its rung, with its log closed and its checkpoint written.  (Several
workers that Tune stops leave their reservations behind.)
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

# Read by Ray Tune when it starts: no loggers of its own, Ctrl-C as an exception, few snapshots of its state.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune
from ray.tune.search import Searcher

from sslsv.cluster.fit import free_what_is_held
from sslsv.runs.folder import RunFolder
from sslsv.runs.storage import below
from sslsv.search.history import Decision
from sslsv.search.places import Places
from sslsv.search.sweep import ExecutionError, Sweep
from sslsv.search.trial import Place, run_leg


class Legs(Searcher):
    """Tells Tune which leg to run next, and the sweep how it ended."""

    def __init__(self, sweep: Sweep, at_once: int, changed: Callable[[], None]) -> None:
        super().__init__()
        self.sweep, self.at_once, self.changed = sweep, at_once, changed
        self.legs: dict[str, Decision] = {}  # by Tune's name for it

    def suggest(self, trial_id: str) -> Any:
        """The next leg; None: not now; FINISHED: never again."""
        leg = None
        with self._halting():
            leg = self.sweep.next_leg(self.at_once)
        if leg is None:
            is_over = self.sweep.is_over or self.sweep.halted is not None
            return str(Searcher.FINISHED) if is_over else None
        self.legs[trial_id] = leg
        self.changed()
        location = self.sweep.folder.trial_folder(leg.index).location
        return {"location": location, "until_epoch": self.sweep.rungs[leg.rung]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Collect the record of a validation."""
        with self._halting():
            self.sweep.folder.collect(self.legs[trial_id].index)
        self.changed()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note how the leg ended."""
        leg = self.legs.pop(trial_id)
        with self._halting():
            if error or result is None:
                free_what_is_held(self.sweep.folder.trial_folder(leg.index))
                self.sweep.end_leg(leg, "failed", _last_words(self.sweep.folder.trial_folder(leg.index)))
            elif result["state"] == "interrupted":
                self.sweep.put_back(leg, result["why"])
            else:
                self.sweep.end_leg(leg, result["state"], result["why"])
        self.changed()

    @contextlib.contextmanager
    def _halting(self) -> Iterator[None]:
        """No leg begins any more once the sweep's own files can't be read or written.

        A restart knows what was written: a leg whose end is missing goes on from its last checkpoint.
        """
        try:
            yield
        except OSError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.sweep.halted = f"the files of the sweep can't be read or written: {reason}"

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, for a restart of its own kind

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's own files are what a restart reads."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


def run_sweep(sweep: Sweep, places: Places, place: Place, changed: Callable[[], None]) -> None:
    """Run all legs that are still to run; `changed` is called whenever there is something new to show.

    Raises ExecutionError when all trials ended at once, or one after another met faults of the system.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told in our table
    resources, folder = sweep.base.resources, sweep.folder.folder

    def leg(config: dict[str, Any]) -> dict[str, str]:
        def report() -> None:
            tune.report({"state": "running", "why": ""})

        return run_leg(RunFolder.at(config["location"]), config["until_epoch"], place, report)

    # Several workers reserve for themselves, by Ray Train; any share of a CPU that the process which starts
    # them took would be missing to their data. Tune refuses to place nothing at all, hence one byte.
    alone = {"CPU": resources.cpus_per_worker} | ({"GPU": places.gpus} if places.has_gpu else {})
    tuner = tune.Tuner(
        tune.with_resources(leg, alone if resources.workers == 1 else {"CPU": 0, "memory": 1}),
        tune_config=tune.TuneConfig(
            search_alg=Legs(sweep, places.at_once, changed),
            num_samples=-1,  # until the searcher says so
            # A leg leaves threads of Ray Data and memory behind, 0.5 GB each on CPUs: a process of its own
            # costs seconds, one process for all of them ran out of memory.
            reuse_actors=False,
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
    except (RuntimeError, tune.TuneError) as error:
        # Such as all processes of the sweep killed together, because the machine ran out of memory.
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        # Of a traceback the last line says what it was, else the first.
        is_traceback = bool(lines) and lines[0].startswith("Traceback")
        reason = (lines[-1] if is_traceback else lines[0]) if lines else type(error).__name__
        raise ExecutionError(f"Ray ended all trials: {reason}") from error
    finally:
        with contextlib.suppress(OSError):  # Tune's notes: what can't be deleted is only litter
            folder.delete_folder("ray")
    if sweep.halted is not None:
        raise ExecutionError(sweep.halted)


def _last_words(folder: RunFolder) -> str:
    """Why a trial's process died, in one sentence."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line for line in folder.read("failure.txt").decode().splitlines() if line.strip()]
        return f"{lines[-1].strip()} (details in {below(folder.location, 'failure.txt')})"
    return "its process died: killed, or out of memory"
