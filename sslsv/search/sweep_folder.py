"""The folder that a sweep leaves behind, on a disk or in object storage: `<storage>/<name>/`.

sweep.json         what was asked for: space file, overrides, rungs ...     base.yml   the other settings
suggestions.jsonl  index, settings of every trial, written before it starts; changed ones follow, with the
                   rung up to which the trial trains with them first
decisions.jsonl    index, rung, action (start, continue, stop), why, source: in the order they were made
outcomes.jsonl     index, rung, epoch, state (reached, collapsed, failed), value, why: in the order of arrival
records.jsonl      index and every validation record of every trial
trials/0003/       the run folder of a trial, complete: checkpoints, metrics.jsonl, report.html ...

These files are the truth: a sweep goes on from them alone.  Suggestions, decisions and outcomes are written
as whole files, each line before what follows from it begins, so that no crash leaves half of one.
"""

import json
import math
from typing import Any

from sslsv.runs.folder import RunFolder, below
from sslsv.search.history import Decision, History, Outcome
from sslsv.search.suggestions import Settings


class SweepFolder:
    """Read and write the files of one sweep; `history`, `suggestions` and `records` are what they hold."""

    def __init__(self, folder: RunFolder, rungs: tuple[int, ...], metric: str, is_lower_better: bool) -> None:
        self.folder, self.rungs, self.metric = folder, rungs, metric
        self._sign = 1.0 if is_lower_better else -1.0
        self._lines = {name: _read_lines(folder, name) for name in ("suggestions", "decisions", "outcomes")}
        self.suggestions: dict[int, Settings] = {  # the last ones of each trial
            line["index"]: line["settings"] for line in self._lines["suggestions"]
        }
        self.history = History(
            [
                Decision(d["index"], d["rung"], d["action"], d["why"], d["source"])
                for d in self._lines["decisions"]
            ],
            [self._outcome(line) for line in self._lines["outcomes"]],
        )
        self.records = _read_lines(folder, "records")
        if folder.has(
            "records.jsonl"
        ):  # a crash may have cut its last line short: what is appended needs a whole one
            folder.write("records.jsonl", _to_bytes(self.records))
        self._recorded = {_key(record["index"], record) for record in self.records}

    def trial_folder(self, index: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder.at(below(below(self.folder.location, "trials"), f"{index:04d}"))

    def add_suggestion(self, index: int, settings: Settings, rung: int | None = None) -> None:
        """Write down what a trial tries; `rung`: what it tries on its way there and beyond."""
        self.suggestions[index] = settings
        line = {"index": index, "settings": settings}
        self._add("suggestions", [line if rung is None else line | {"rung": rung}])

    def settings_at(self, index: int, rung: int) -> Settings:
        """What a trial tried on its way to a rung: not its last settings where they changed half-way."""
        lines = [line for line in self._lines["suggestions"] if line["index"] == index]
        found: Settings = next(line for line in reversed(lines) if line.get("rung", 0) <= rung)["settings"]
        return found

    def add_decisions(self, decisions: list[Decision]) -> None:
        """Write down what was decided, together."""
        self.history.decisions.extend(decisions)
        self._add(
            "decisions", [{**vars(decision), "epoch": self.rungs[decision.rung]} for decision in decisions]
        )

    def add_outcome(self, index: int, rung: int, state: str, why: str = "") -> Outcome:
        """Collect the records of a trial whose leg has ended, and write down how it ended."""
        self.collect(index)
        value = None
        if state == "reached":
            at_rung = [r for r in self.records_of(index) if round(r["epoch"]) == self.rungs[rung]]
            value = at_rung[-1].get(self.metric) if at_rung else None
        line = {
            "index": index,
            "rung": rung,
            "epoch": self.rungs[rung],
            "state": state,
            "value": value,
            "why": why,
        }
        outcome = self._outcome(line)
        self.history.outcomes.append(outcome)
        self._add("outcomes", [line])
        return outcome

    def collect(self, index: int) -> None:
        """Append the validation records of a trial's metrics.jsonl that are not yet in records.jsonl."""
        validated = [
            r for r in self.trial_folder(index).metrics() if self.metric in r or r.get("has_collapsed")
        ]
        self.add_records(index, validated)

    def add_records(self, index: int, records: list[dict[str, Any]]) -> None:
        """Append the records of a trial that are not there yet."""
        new = [{"index": index, **r} for r in records if _key(index, r) not in self._recorded]
        self._recorded |= {_key(index, record) for record in new}
        self.records.extend(new)
        if new:
            self.folder.append_lines("records.jsonl", [json.dumps(record) for record in new])

    def records_of(self, index: int) -> list[dict[str, Any]]:
        """Validation records of a trial, in the order of epochs."""
        return sorted((r for r in self.records if r["index"] == index), key=lambda r: float(r["epoch"]))

    def at_rungs(self) -> dict[int, dict[int, dict[str, Any]]]:
        """Epoch of each rung -> trial -> its record there, of all that reached it and have not collapsed."""
        found: dict[int, dict[int, dict[str, Any]]] = {epoch: {} for epoch in self.rungs}
        alive = {(o.index, self.rungs[o.rung]) for o in self.history.outcomes if o.state == "reached"}
        furthest = {o.index: self.rungs[o.rung] for o in self.history.last_outcomes().values()}
        for record in self.records:
            index, epoch = record["index"], round(record["epoch"])
            if epoch not in found or record.get("has_collapsed"):
                continue
            # A leg may pass rungs, as those of later brackets do.
            if (index, epoch) in alive or epoch < furthest.get(index, 0):
                found[epoch][index] = record
        return found

    def value(self, outcome: Outcome) -> float | None:
        """The metric of an outcome, in its own direction."""
        return None if outcome.cost is None else self._sign * outcome.cost

    def _outcome(self, line: dict[str, Any]) -> Outcome:
        value = line["value"]
        cost = None if value is None or not math.isfinite(value) else self._sign * value
        return Outcome(line["index"], line["rung"], line["state"], cost, line["why"])

    def _add(self, name: str, lines: list[dict[str, Any]]) -> None:
        if lines:
            self._lines[name].extend(lines)
            self.folder.write(f"{name}.jsonl", _to_bytes(self._lines[name]))


def _key(index: int, record: dict[str, Any]) -> tuple[int, int, float]:
    # A copy has as many steps per epoch as its model: the step alone may come twice, at two epochs.
    return index, record["step"], record["epoch"]


def _read_lines(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    if not folder.has(f"{name}.jsonl"):
        return []
    lines = []
    for line in folder.read(f"{name}.jsonl").decode().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # cut short by a crash; it comes again
            continue
    return lines


def _to_bytes(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
