"""The page that a run leaves behind: one self-contained HTML file of results, curves, settings, environment.

Written at the end of a training; `python -m sslsv.reports.training RUN` writes it for one that is still
running or was stopped.
"""

import argparse
import sys
from collections.abc import Iterator
from statistics import fmean

from sslsv.config import ConfigError, is_among, read_config
from sslsv.reports.learning_curves import METRICS, TEST, Record, curve_sections
from sslsv.reports.page import (
    Html,
    duration,
    element,
    facts,
    folded,
    joined,
    metric_text,
    metric_title,
    muted,
    note,
    page,
    pairs,
    section,
    shown,
    table,
)
from sslsv.runs.folder import RunFolder
from sslsv.runs.storage import below

MAX_SENTENCES = 1000  # on recordings that could not be read
IDENTITY = ("started", "wandb_id")  # in run.json, beside the environment


def write_report(folder: RunFolder) -> None:
    """Write report.html from what else is in the run folder; it may be written anew at any time."""
    summary = folder.read_json("summary.json") if folder.has("summary.json") else {}
    run = folder.read_json("run.json") if folder.has("run.json") else {}
    records = folder.metrics()
    best, last = best_and_last(summary, records)
    environment = {key: value for key, value in run.items() if key not in IDENTITY}
    state = "finished" if summary.get("is_finished") else "not finished"
    parts = [
        muted(f"Training run, {state}", f", started {run['started']}" if "started" in run else ""),
        *[note(sentence) for sentence in [*doubts(folder), *notices(records, summary)]],
        facts(key_figures(summary, records, best)),
        section("Results", results(best, last)),
        *curve_sections(records, best.get("step")),
        section("Where the time goes", step_parts(summary.get("step_parts", {}))),
        section("Recordings left out", left_out(summary.get("bad_utterances", {}))),
        section("Recordings of trials left out", left_out(summary.get("bad_trial_recordings", {}))),
        section("Noises and rooms left out", left_out(summary.get("bad_bank_files", {}))),
        section("Trials", pairs(summary.get("trial_sets", {}))),
        section("Settings", folded("config.yml", element("pre", folder.read("config.yml").decode()))),
        section("Environment", pairs(summary.get("environment") or environment)),
    ]
    folder.write("report.html", page(folder.name, *parts).encode())


def doubts(folder: RunFolder) -> list[str]:
    """Sentences on settings that make the results look better than they are."""
    try:
        config = read_config(folder.read("config.yml").decode())
    except ConfigError as error:  # written by another version: the rest of the page is still worth having
        return [f"The settings of this run can't be checked: {error}."]
    evaluation = config.evaluation
    if not is_among(config.data.root, evaluation.validation, evaluation.test):
        return []
    return [
        f"The best checkpoint was chosen on the test trials {evaluation.validation!r} "
        "(evaluation.allow_validation_on_test): its results on them look better than they are."
    ]


def notices(records: list[Record], summary: Record) -> Iterator[str]:
    """Sentences that a reader must not miss."""
    found = [record for record in records if record.get("notice")]
    if found:
        since = f" (Noticed {len(found)} times, first at step {found[0]['step']}.)" if found[1:] else ""
        yield f"{found[-1]['notice']}{since}"
    reason = summary.get("stop_reason")
    if reason and all(record["notice"] != reason for record in found):
        yield reason
    if bad := summary.get("bad_utterances"):
        yield f"{len(bad)} recordings could not be read and were left out, see below."
    if bad := summary.get("bad_trial_recordings"):
        yield f"{len(bad)} recordings of trials could not be read; their trials were left out, see below."
    if bad := summary.get("bad_bank_files"):
        yield f"{len(bad)} noises or rooms could not be read and were left out, see below."


def step_parts(parts: Record) -> Html:
    """Parts of a mean step and of making a batch, in milliseconds and shares."""
    tables = []
    for name, title in (("seconds", "part of a step"), ("data_seconds", "part of making a worker's batch")):
        if seconds := parts.get(name):
            whole = max(sum(seconds.values()), 1e-12)
            rows = [[part, f"{1000 * s:.1f}", f"{100 * s / whole:.1f}"] for part, s in seconds.items()]
            tables.append(table([title, "ms", "%"], [*rows, ["all", f"{1000 * whole:.1f}", "100.0"]]))
    if not tables:
        return joined([])
    remark = f"Timed in {parts['timed_steps']:,} steps; the data processes work beside the training."
    return joined([*tables, muted(remark)])


def left_out(bad_utterances: dict[str, str]) -> Html:
    """Why recordings could not be read."""
    sentences = [element("p", sentence) for sentence in list(bad_utterances.values())[:MAX_SENTENCES]]
    more = len(bad_utterances) - MAX_SENTENCES
    if more > 0:
        sentences.append(muted(f"... and {more:,} more."))
    return joined(sentences) if len(sentences) <= 5 else folded(f"{len(bad_utterances):,}", *sentences)


def best_and_last(summary: Record, records: list[Record]) -> tuple[Record, Record]:
    """All that is known of the best and of the last validated checkpoint: `step` and metrics.

    The best one also has `criterion` and `value`.
    """
    validated = [
        record for record in records if any(key in METRICS for key in record) or "criterion" in record
    ]
    best = dict(summary.get("best") or best_so_far(validated))
    if "eer" in best:  # of a run from before there were other criteria
        best = {"criterion": "eer", "value": best["eer"], **best}
    last = dict(summary.get("last") or ({"step": validated[-1]["step"]} if validated else {}))
    by_step = {record["step"]: record for record in validated}
    return by_step.get(best.get("step"), {}) | best, by_step.get(last.get("step"), {}) | last


def best_so_far(validated: list[Record]) -> Record:
    """The best checkpoint of a run without a summary: as its newest record says, else that of lowest EER."""
    newest = validated[-1] if validated else {}
    criterion, value = newest.get("criterion", "eer"), newest.get("best_value")
    with_eer = [record for record in validated if record.get("eer") is not None]
    if value is None and criterion == "eer" and with_eer:
        value = min(record["eer"] for record in with_eer)
    steps = [record["step"] for record in validated if value is not None and record.get(criterion) == value]
    return {"step": steps[0], "criterion": criterion, "value": value} if steps else {}


def results(best: Record, last: Record) -> Html:
    """A row per trial list: metrics of the best and of the last checkpoint."""
    rows: dict[str, dict[str, list[str]]] = {}
    metrics: dict[str, None] = {}
    for place, values in enumerate((best, last)):
        for key, value in values.items():
            if key in METRICS:
                name, metric = "validation", key
            elif key.startswith(TEST):
                _, name, metric = key.split("/", 2)
            else:
                continue
            metrics[metric] = None
            if value is not None:
                rows.setdefault(name, {}).setdefault(metric, ["–", "–"])[place] = metric_text(metric, value)
    if not rows:
        return muted("Nothing was validated or tested yet.")
    header = [f"{metric_title(metric)}, {which}" for metric in metrics for which in ("best", "last")]
    cells = [
        [name, *[cell for metric in metrics for cell in found.get(metric, ["–", "–"])]]
        for name, found in rows.items()
    ]
    which = []
    if "step" in best:
        chosen = f", chosen by {metric_title(best['criterion'])} in validation" if "criterion" in best else ""
        which.append(f"Best: step {best['step']:,}{chosen}.")
    if "step" in last:
        which.append(f"Last: step {last['step']:,}.")
    return joined([table(["trials", *header], cells), muted(" ".join(which))])


def key_figures(summary: Record, records: list[Record], best: Record) -> Iterator[tuple[str, str, str]]:
    """The few numbers at the top: (what it is, its value, what to know of it)."""
    if best.get("value") is not None:
        value = metric_text(best["criterion"], best["value"])
        yield f"best {metric_title(best['criterion'])}", value, f"at step {best['step']:,}"
    if not records:
        return
    newest = records[-1]
    total = f" of {newest['total_steps']:,}" if "total_steps" in newest else ""
    epoch = f"epoch {newest['epoch']:,.1f}" if "epoch" in newest else ""
    yield f"steps{total}", f"{newest['step']:,}", epoch
    if "loss" in newest:
        yield "loss", str(shown(newest["loss"])), "last record"
    if "seconds" in newest or "seconds" in summary:
        left = newest.get("seconds_left", 0.0)
        remark = "in all" if summary else f"about {duration(left)} to go"
        yield "time", duration(summary.get("seconds") or newest.get("seconds") or 0.0), remark
    speeds = [r["samples_per_second"] for r in records if r.get("samples_per_second") is not None]
    if speeds or summary.get("samples_per_second"):
        speed = summary.get("samples_per_second") or fmean(speeds)
        workers = f"{summary['workers']} worker(s)" if "workers" in summary else ""
        yield "samples per second", f"{speed:,.1f}", workers
    waits = [r["data_wait_share"] for r in records if r.get("data_wait_share") is not None]
    if waits:
        yield "waiting for data", f"{100 * fmean(waits):.0f} %", "of the training time"
    if shares := summary.get("time_shares"):
        parts = [f"{name} {100 * share:.1f} %" for name, share in shares.items() if name != "training"]
        yield "steps", f"{100 * shares['training']:.0f} %", f"of all time; {', '.join(parts)}"


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.reports.training", description="Write the report of a training run."
    )
    parser.add_argument("run", help="the run folder, such as runs/simclr; the run may still be going on")
    folder = RunFolder.at(parser.parse_args(arguments).run)
    try:
        if not folder.has("config.yml"):
            raise ValueError(f"{folder.location} is no run folder: it has no config.yml")
        write_report(folder)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    print(below(folder.location, "report.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
