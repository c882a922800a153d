"""Sum up a sweep: a table of all trials, and the settings of the best one."""

import csv
import io
import json
from typing import Any

from sslsv.config import to_yaml
from sslsv.search.criteria import CRITERIA
from sslsv.search.schedulers import Outcome, standing
from sslsv.search.sweep import Sweep
from sslsv.settings import apply_overrides


def write_results(sweep: Sweep) -> Outcome | None:
    """Write results.csv and best.yml; returns the best trial's outcome.

    Returns None, and writes no best.yml, when no trial can win: all have collapsed or failed.
    """
    best_first = standing(sweep.history)
    rows = [_row(sweep, place, outcome) for place, outcome in enumerate(best_first, 1)]
    text, columns = io.StringIO(), list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    sweep.folder.write("results.csv", text.getvalue().encode())
    best = next((outcome for outcome in best_first if outcome.can_win), None)
    if best is None:
        return None
    # Its best checkpoint is chosen by what has chosen the trial: without labels where the sweep needed none.
    fixed = {"run.name": f"{sweep.folder.name}-best", "evaluation.criterion": sweep.metric}
    searched = sweep.space.settings_of(sweep.configurations[best.index])
    config = apply_overrides(sweep.base, {**searched, **fixed})
    head = f"# Best: {sweep.describe(best)}; epoch {sweep.rungs[best.rung]}.\n"
    sweep.folder.write("best.yml", (head + to_yaml(config)).encode())
    return best


def state_of(sweep: Sweep, outcome: Outcome) -> str:
    """Say what became of a trial: finished, stopped at a rung, unfinished, collapsed or failed."""
    if outcome.state != "reached":
        return outcome.state
    if outcome.rung == len(sweep.rungs) - 1:
        return "finished"
    return "stopped" if sweep.is_over else "unfinished"


def _row(sweep: Sweep, place: int, outcome: Outcome) -> dict[str, Any]:
    last = (sweep.records_of(outcome.index) or [{}])[-1]
    settings = {
        key: json.dumps(value) if isinstance(value, list | dict | bool) else value
        for key, value in sweep.configurations[outcome.index].items()
    }
    found = {"place": place, "trial": outcome.index, "state": state_of(sweep, outcome)}
    found |= {"epoch": round(last.get("epoch", 0)), sweep.metric: last.get(sweep.metric)}
    found |= {metric: last[metric] for metric in CRITERIA if metric in last}
    return {**found, "seconds": last.get("seconds"), "why": outcome.why, **settings}
