"""What a sweep comes to: a table of all trials, the settings of the best one, its place in TensorBoard."""

import csv
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslsv.config import apply_overrides, to_yaml
from sslsv.search.history import Outcome, standing
from sslsv.search.sweep import Sweep


def write_results(sweep: Sweep) -> Outcome | None:
    """Write results.csv, results.parquet, best.yml and tensorboard/; returns the best trial's outcome.

    None, and no best.yml, when no trial can win: all have collapsed or failed.
    """
    best_first = standing(sweep.folder.history)
    rows = [_row(sweep, place, outcome) for place, outcome in enumerate(best_first, 1)]
    if not rows:
        return None
    sweep.folder.folder.write("results.csv", _to_csv(rows))
    sweep.folder.folder.write("results.parquet", _to_parquet(rows))
    if sweep.folder.folder.is_local:
        _write_hparams(sweep, best_first)
    best = best_first[0]
    if not best.can_win:
        return None
    sweep.folder.folder.write("best.yml", _best_settings(sweep, best).encode())
    return best


def state_of(sweep: Sweep, outcome: Outcome) -> str:
    """What became of a trial: finished, stopped at a rung, collapsed, failed, or undecided (waiting)."""
    if outcome.state != "reached":
        return outcome.state
    if outcome.rung == len(sweep.rungs) - 1:
        return "finished"
    return "stopped" if outcome.index in sweep.folder.history.stopped() else "waiting"


def _row(sweep: Sweep, place: int, outcome: Outcome) -> dict[str, Any]:
    records = sweep.folder.records_of(outcome.index)
    last = records[-1] if records else {}
    metrics = {metric: last.get(metric) for metric in sweep.space.metrics}
    return {
        "place": place,
        "trial": outcome.index,
        "state": state_of(sweep, outcome),
        "epoch": round(last.get("epoch", 0)),
        **metrics,
        "seconds": last.get("seconds"),
        "why": outcome.why,
        **sweep.folder.suggestions[outcome.index],
    }


def _to_csv(rows: list[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """The same table with its types; settings of mixed or nested types become text."""
    columns: dict[str, pa.Array] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        is_plain = len(kinds) <= 1 or kinds == {int, float}
        if not is_plain or kinds & {list, dict, tuple}:
            values = [None if value is None else str(value) for value in values]
        elif kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        columns[key] = pa.array(values)
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def _best_settings(sweep: Sweep, best: Outcome) -> str:
    """A yaml that `sslsv.train` takes: the base with the winner's settings, under the sweep's name."""
    # Its best checkpoint is chosen by what has chosen the trial: without labels where the sweep needed none.
    fixed = {"run.name": f"{sweep.folder.folder.name}-best", "evaluation.criterion": sweep.space.metrics[0]}
    config = apply_overrides(sweep.base, {**sweep.folder.suggestions[best.index], **fixed})
    value = f"{sweep.folder.metric} {sweep.folder.value(best):.4f}"
    return (
        f"# Trial {best.index} of {sweep.num_trials}: {value} at epoch {sweep.rungs[best.rung]}.\n"
        f"# Train it anew: python -m sslsv.train best.yml\n{to_yaml(config)}"
    )


def _write_hparams(sweep: Sweep, outcomes: list[Outcome]) -> None:
    """One run per trial in TensorBoard's HParams tab."""
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    folder = sweep.folder.folder
    folder.delete_folder("tensorboard")  # of an earlier end of this sweep
    for outcome in outcomes:
        value = sweep.folder.value(outcome)
        if value is None:
            continue
        settings = sweep.folder.suggestions[outcome.index].items()
        plain = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in settings}
        with SummaryWriter(folder.path(f"tensorboard/{outcome.index:04d}")) as writer:
            for summary in hparams(plain, {sweep.folder.metric: value}):
                writer.file_writer.add_summary(summary)
            writer.add_scalar(sweep.folder.metric, value, sweep.rungs[outcome.rung])
