"""Keep the files of a sweep, and choose its segments (see schedulers.py) from these files alone.

The folder of a sweep is `<storage>/<name>/`, on a disk or in object storage:

sweep.json            the request: space file, command, rungs ..., and the settings of the base
configurations.jsonl  index and settings of each trial, written before it starts
decisions.jsonl       index, rung: a trial may train up to a rung; in the order they were made
outcomes.jsonl        index, rung, epoch, state (reached, collapsed, failed), value, why: in order of arrival
trials/0003/          the complete run folder of a trial: checkpoints, metrics.jsonl ...
results.csv, best.yml  written after each segment; report.html, confirmation.json and confirm/ at the end

A sweep is resumed from the .jsonl files alone. Each write replaces a file as a unit, and each line is written
before the work that depends on it, so that a crash leaves no partial line and no unrecorded trial.
"""

import csv
import io
import json
import math
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sslsv.config import CRITERIA, Config, ResourcesConfig, changes_of, is_better, read_config, to_yaml
from sslsv.runs.environment import describe_environment
from sslsv.runs.folder import RunFolder, below
from sslsv.search.schedulers import Decision, History, Outcome, ranking
from sslsv.search.searchers import Configuration, Searcher
from sslsv.search.space import Space
from sslsv.search.trial_settings import apply_configuration, trial_config
from sslsv.settings import ConfigError, locate, refuse_if

MAX_FAULTS = 3  # consecutive storage or network errors, over all trials, after which a sweep halts


class Sweep:
    """Choose the segments to run; `history` and `configurations` hold the content of the files.

    `base` has the settings as requested, `resources` the resources of one trial.
    """

    def __init__(
        self, space: Space, base: Config, rungs: Sequence[int], folder: RunFolder, resources: ResourcesConfig
    ) -> None:
        self.space, self.base, self.rungs, self.folder = space, base, tuple(rungs), folder
        self.resources, self.metric = resources, space.metric
        self.searcher = Searcher(space, base)
        self.num_trials = self.searcher.num_trials
        self.running: set[Decision] = set()
        self.halted: str | None = None  # why no more segments start, though some are left
        self._faults = 0  # in a row
        self._last_records: dict[int, dict[str, Any]] = {}  # newest of each trial, read once per segment
        self._start = time.monotonic()
        self._sign = 1.0 if is_better(space.metric, 0.0, than=1.0) else -1.0  # cost = sign * metric
        self.configurations: dict[int, Configuration] = {
            record["index"]: record["settings"] for record in folder.records("configurations.jsonl")
        }
        decisions = [Decision(**record) for record in folder.records("decisions.jsonl")]
        outcomes = [self._outcome(**record) for record in folder.records("outcomes.jsonl")]
        self.history = History(decisions, outcomes)

    @property
    def is_over(self) -> bool:
        """Return whether no segment is open and no decision is left."""
        return not self.history.open_segments() and not self._decisions(at_once=1)

    def config_of(self, index: int) -> Config:
        """Return all settings of a trial; raises ConfigError if they are incompatible."""
        base = replace(self.base, resources=self.resources)
        from sslsv.cluster.fit import with_absolute_paths  # imports Ray, which takes a second

        return with_absolute_paths(trial_config(base, self.space, self.configurations[index]))

    def trial_folder(self, index: int) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder.at(below(self.folder.location, f"trials/{index:04d}"))

    def next_segment(self, at_once: int) -> Decision | None:
        """Return the next segment, marked as running; None if none can start now."""
        if len(self.running) >= at_once or self.halted is not None:
            return None
        if self._waiting_segment() is None:
            self._decide(at_once)
        if (segment := self._waiting_segment()) is None:
            return None
        try:
            config = self.config_of(segment.index)
        except ConfigError as error:  # each value was checked, but not all combinations
            self.end_segment(segment, "failed", str(error))
            return self.next_segment(at_once)
        folder = self.trial_folder(segment.index)
        if not folder.has("run.json"):
            identity = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "wandb_id": uuid.uuid4().hex[:12]}
            folder.write_json("run.json", identity | describe_environment())
        folder.write("config.yml", to_yaml(config).encode())
        self.running.add(segment)
        return segment

    def end_segment(self, segment: Decision, state: str, why: str = "") -> None:
        """Read the result of a segment and record its outcome."""
        epoch, records = self.rungs[segment.rung], self.records_of(segment.index)
        self._last_records[segment.index] = (records or [{}])[-1]
        at_rung = [record for record in records if round(record["epoch"]) == epoch]
        value = at_rung[-1].get(self.metric) if at_rung and state == "reached" else None
        outcome = self._outcome(segment.index, segment.rung, state, value, why)
        self.history.outcomes.append(outcome)
        lines = [
            {"index": o.index, "rung": o.rung, "epoch": self.rungs[o.rung], "state": o.state}
            | {"value": self.value(o), "why": o.why}
            for o in self.history.outcomes
        ]
        self.folder.write_records("outcomes.jsonl", lines)
        self.running.discard(segment)
        self._faults = 0
        minutes = (time.monotonic() - self._start) / 60
        is_best = outcome.can_win and ranking(self.history)[0] is outcome
        line = f"{minutes:6.1f} min  epoch {epoch:4d}  {state}  {self.describe(outcome)}"
        print(line + "  (best so far)" * is_best, file=sys.stderr, flush=True)
        self.write_results()

    def requeue(self, segment: Decision, why: str) -> None:
        """Requeue a segment that an error of storage or network interrupted; see `MAX_FAULTS`."""
        self.running.discard(segment)
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            times = f"{MAX_FAULTS} times in a row, last in trial {segment.index}"
            self.halted = f"training was interrupted {times}: {why}"

    def records_of(self, index: int) -> list[dict[str, Any]]:
        """Read the validation records of a trial, in the order of epochs."""
        metrics = self.trial_folder(index).metrics()
        return [record for record in metrics if self.metric in record or record.get("has_collapsed")]

    def value(self, outcome: Outcome) -> float | None:
        """Return the metric of an outcome; its cost is minus the metric if a higher metric is better."""
        return None if outcome.cost is None else self._sign * outcome.cost

    def describe(self, outcome: Outcome) -> str:
        """Return the result and the configuration of a trial as text, with the last part of each key."""
        parts = [
            f"{key.rpartition('.')[2]}={f'{value:.3g}' if isinstance(value, float) else value}"
            for key, value in self.configurations[outcome.index].items()
        ]
        value, result = self.value(outcome), outcome.why
        if value is not None:
            result = f"EER {value:.2f} %" if self.metric == "eer" else f"{self.metric} {value:.4g}"
        return f"trial {outcome.index}, {result}, {' '.join(parts)}"

    def add_configuration(self, index: int, configuration: Configuration) -> None:
        """Record the configuration of a trial."""
        self.configurations[index] = configuration
        lines = [{"index": i, "settings": settings} for i, settings in self.configurations.items()]
        self.folder.write_records("configurations.jsonl", lines)

    def write_results(self) -> Outcome | None:
        """Write results.csv and best.yml, return the best outcome; if none can win, no best.yml and None."""
        best_first = ranking(self.history)
        rows = [self._row(place, outcome) for place, outcome in enumerate(best_first, 1)]
        buffer, columns = io.StringIO(), list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.folder.write("results.csv", buffer.getvalue().encode())
        best = next((outcome for outcome in best_first if outcome.can_win), None)
        if best is not None:
            # The metric of the sweep selects the best checkpoint, so no labels are used if it needs none.
            fixed = {"run.name": f"{self.folder.name}-best", "evaluation.criterion": self.metric}
            config = apply_configuration(self.base, self.space, self.configurations[best.index], fixed)
            header = f"# Best: {self.describe(best)}; epoch {self.rungs[best.rung]}.\n"
            self.folder.write("best.yml", (header + to_yaml(config)).encode())
        elif self.folder.has("best.yml"):  # the best trial so far has collapsed
            self.folder.delete("best.yml")
        return best

    def state_of(self, outcome: Outcome) -> str:
        """Return the state of a trial: finished, stopped at a rung, unfinished, collapsed or failed."""
        if outcome.state != "reached":
            return outcome.state
        if outcome.rung == len(self.rungs) - 1:
            return "finished"
        return "stopped" if self.is_over else "unfinished"

    def _row(self, place: int, outcome: Outcome) -> dict[str, Any]:
        if outcome.index not in self._last_records:
            self._last_records[outcome.index] = (self.records_of(outcome.index) or [{}])[-1]
        last = self._last_records[outcome.index]
        settings = {
            key: json.dumps(value) if isinstance(value, list | dict | bool) else value
            for key, value in self.configurations[outcome.index].items()
        }
        row = {"place": place, "trial": outcome.index, "state": self.state_of(outcome)}
        row |= {"epoch": round(last.get("epoch", 0)), self.metric: last.get(self.metric)}
        row |= {metric: last[metric] for metric in CRITERIA if metric in last}
        return {**row, "seconds": last.get("seconds"), "why": outcome.why, **settings}

    def _waiting_segment(self) -> Decision | None:
        return next((s for s in self.history.open_segments() if s not in self.running), None)

    def _decisions(self, at_once: int) -> list[Decision]:
        return self.space.decider.decide(self.history, self.num_trials, len(self.rungs), at_once)

    def _decide(self, at_once: int) -> None:
        """Record the next decisions, configurations first, so that no trial starts without one."""
        decisions = self._decisions(at_once)
        for index in [decision.index for decision in decisions]:
            if index not in self.configurations:
                self.add_configuration(index, self.searcher.choose(index, self.configurations, self.history))
        if decisions:
            self.history.decisions.extend(decisions)
            self.folder.write_records("decisions.jsonl", [asdict(each) for each in self.history.decisions])

    def _outcome(self, index: int, rung: int, state: Any, value: Any, why: str, epoch: int = 0) -> Outcome:
        # `epoch` is in outcomes.jsonl for readers only; it follows from the rung.
        is_finite = value is not None and math.isfinite(value)
        return Outcome(index, rung, state, self._sign * value if is_finite else None, why)


def describe_request(space: Space, base: Config, space_file: str, rungs: Sequence[int]) -> dict[str, Any]:
    """Return the request in the form of sweep.json."""
    return {
        "space_file": space_file,
        "space": locate(space_file).read_text(),
        "searcher": space.searcher,
        "trials": space.trials,
        "takes_more_trials": space.decider.takes_more_trials and space.searcher != "grid",
        "rungs": list(rungs),
        "base": to_yaml(base),
    }


def check_folder(folder: RunFolder, request: dict[str, Any], mode: str) -> None:
    """Raise ValueError unless the folder is new, will be renamed ("fresh"), or can be resumed."""
    location, kind = folder.location, folder.kind()
    refuse_if(
        mode != "fresh" and kind not in ("", "sweep"),
        f"{location} holds a {kind}; --name gives the sweep another folder, --fresh renames the {kind}",
    )
    refuse_if(mode == "resume" and not kind, f"{location} holds no sweep to resume; leave out --resume")
    refuse_if(
        mode == "new" and kind == "sweep",
        f"{location} holds a sweep; --resume continues it, --fresh starts anew (the old one is kept under "
        "another name), --name gives this one another folder",
    )
    if mode != "resume":
        return
    earlier = folder.read_json("sweep.json")
    # The test lists may change: trials never use them, and a confirmation checks its own.
    changes = changes_of(read_config(earlier["base"]), read_config(request["base"]), "evaluation.test:")
    is_counted = earlier["trials"] is not None  # a grid has no number of trials
    has_more = is_counted and request["takes_more_trials"] and request["trials"] > earlier["trials"]
    if earlier["trials"] != request["trials"] and not has_more:
        changes.append(f"trials: {earlier['trials']} -> {request['trials']}")
    if earlier.get("lists") != request.get("lists"):
        changes.append("the contents of the lists to train and validate on")
    if earlier["space"] != request["space"]:
        changes.append(f"the text of {request['space_file']}")
    refuse_if(
        bool(changes),
        f"{location} holds a different sweep, so it can't be resumed; use another --name, or --fresh. "
        "Differences (earlier -> now):\n  " + "\n  ".join(changes),
    )


def prepare_folder(folder: RunFolder, request: dict[str, Any], mode: str) -> None:
    """Create the sweep's folder, or resume the existing one; the caller must keep other commands out.

    Raises ValueError as `check_folder` does, because another command may have written to the folder since.
    """
    check_folder(folder, request, mode)
    if mode == "fresh" and folder.kind():
        print(f"what was there is now {folder.set_aside()}", file=sys.stderr)
    if mode == "resume":
        print(f"going on with the sweep in {folder.location}", file=sys.stderr)
        request = folder.read_json("sweep.json") | {"trials": request["trials"]}
    folder.write_json("sweep.json", request)
