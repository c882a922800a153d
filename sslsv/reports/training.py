"""Write the page of a training run, which may still be going on, from its folder; nothing needs torch."""

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from sslsv.reports.page import Record, Section, duration, metric_text, metric_title, render
from sslsv.reports.plots import Curve, line_chart
from sslsv.runs.folder import RunFolder
from sslsv.settings import parse_yaml

# The first words of the keys below a heading; all other keys are the loss and its terms.
HEADINGS = {
    "Verification": ("eer", "min_dcf", "test"),
    "Training": (),
    "Embeddings": ("feature_std", "batch_feature_std", "effective_rank", "uniformity"),
    "Training utterances, without labels": ("label_free",),
    "Speed": ("samples_per_second", "share"),
}
NO_CURVES = {"step", "epoch", "seconds", "total_steps", "seconds_left", "best_value"}
MAX_SKIPPED = 1000  # More skipped files are not named.


def write_report(folder: RunFolder) -> None:
    """Write report.html from what else is in the run folder."""
    summary, run = (folder.read_json(f) if folder.has(f) else {} for f in ("summary.json", "run.json"))
    settings, records = folder.read("config.yml").decode(), folder.metrics()
    warnings = run.pop("warnings", [])
    best, last = best_and_last(summary, records)
    skipped: dict[str, Record] = {}
    for source in (*records, summary):
        for kind, reasons in source.get("skipped", {}).items():
            if reasons:
                skipped.setdefault(kind.replace("_", " "), {}).update(reasons)
    sections = [
        results(best, last),
        *curve_sections(records, best.get("step")),
        *(Section(f"Skipped {k}", pairs=dict(islice(v.items(), MAX_SKIPPED))) for k, v in skipped.items()),
        Section("Trials", pairs=summary.get("trial_sets", {})),
        Section("Settings", text=settings),
        Section("Environment", pairs=summary.get("environment") or run),
    ]
    notes = [*warnings, *doubts(settings), *[r["notice"] for r in records if r.get("notice")][-1:]]
    notes += [summary["stop_reason"]] if summary.get("stop_reason") else []
    notes += [f"{len(found):,} {kind} could not be read, see below." for kind, found in skipped.items()]
    notes = list(dict.fromkeys(notes))  # A run may stop for the reason that its last notice told.
    now = defaultdict(int, {k: v for k, v in (records or [{}])[-1].items() if v is not None})
    waiting = f"{now['data_wait_share']:.0%} of the time waiting for data"
    facts = [
        ("steps", f"{now['step']:,}", f"of {now['total_steps']:,}, epoch {now['epoch']:.1f}"),
        ("time", duration(now["seconds"]), f"about {duration(now['seconds_left'])} to go"),
        ("samples per second", f"{now['samples_per_second']:,.0f}", waiting),
    ]
    state = "finished" if summary.get("is_finished") else "not finished"
    told = f"Training run, {state}, started {run.get('started', 'at an unknown time')}."
    folder.write("report.html", render(folder.name, sections, sentences=[told], notes=notes, facts=facts))


def doubts(settings: str) -> Iterator[str]:
    """Yield a sentence where the settings make the results look better than they are."""
    data, evaluation = ((parse_yaml(settings) or {}).get(name) or {} for name in ("data", "evaluation"))
    lists = [evaluation.get("validation"), *(evaluation.get("test") or [])]
    places = [posixpath.normpath(posixpath.join(data.get("root", ""), name or "")) for name in lists]
    if lists[0] and places[0] in places[1:]:
        yield (
            f"The best checkpoint was chosen on the test trials {lists[0]!r} "
            "(evaluation.allow_validation_on_test): its results on them look better than they are."
        )


def list_and_metric(key: str) -> tuple[str, str] | None:
    """Return trial list and metric of a key such as `eer` (of validation) or `test/<list>/eer`."""
    if key in ("eer", "min_dcf"):
        return "validation", key
    return (key.split("/")[1], key.split("/", 2)[2]) if key.startswith("test/") else None


def best_and_last(summary: Record, records: list[Record]) -> tuple[Record, Record]:
    """Return all that is known of the best and the last validated checkpoint, also without a summary.

    Both hold `step` and metrics, the best one also `criterion` and `value`.
    """
    validated = {r["step"]: r for r in records if "criterion" in r or any(map(list_and_metric, r))}
    newest = validated[max(validated)] if validated else {}
    criterion, value = newest.get("criterion", ""), newest.get("best_value")
    steps = [step for step, r in validated.items() if value is not None and r.get(criterion) == value]
    so_far = {"step": steps[0], "criterion": criterion, "value": value} if steps else {}
    best, last = summary.get("best") or so_far, summary.get("last") or newest
    return validated.get(best.get("step"), {}) | best, validated.get(last.get("step"), {}) | last


def results(best: Record, last: Record) -> Section:
    """Return a table with a row per trial list: metrics of the best and of the last checkpoint."""
    rows: dict[str, Record] = {}
    for which, values in (("best", best), ("last", last)):
        for key, value in values.items():
            if (found := list_and_metric(key)) and value is not None:
                row = rows.setdefault(found[0], {"trials": found[0]})
                row[f"{metric_title(found[1])}, {which}"] = metric_text(found[1], value)
    told = f"Last: step {last['step']:,}." if last else "Nothing was validated or tested yet."
    if "criterion" in best:
        name, value = metric_title(best["criterion"]), metric_text(best["criterion"], best["value"])
        told = f"Best: step {best['step']:,}, by {name} in validation ({value}). {told}"
    return Section("Results", told, {"": list(rows.values())})


def curve_sections(records: list[Record], best_step: int | None) -> Iterator[Section]:
    """Yield a section of charts per heading, for every key of the records that holds numbers."""
    charts: dict[str, dict[str, list[Curve]]] = {heading: {} for heading in HEADINGS}
    headings = {word: heading for heading, words in HEADINGS.items() for word in words}
    keys = {key for record in records for key in record} - NO_CURVES
    for key in sorted(keys, key=lambda key: (key != "loss", key)):
        points = {r["step"]: r[key] for r in records if type(r.get(key)) in (int, float)}
        if points:
            name, metric = list_and_metric(key) or (key, key)
            word = "share" if key.endswith("_share") else key.partition("/")[0]
            lines = charts[headings.get(word, "Training")].setdefault(metric, [])
            lines.append((name, list(points), list(points.values())))
    for heading, curves in charts.items():
        marks = [] if best_step is None or heading in ("Training", "Speed") else [best_step]
        figures = [line_chart(metric_title(key), lines, marks) for key, lines in curves.items()]
        yield Section(heading, "Dotted: the best checkpoint." if marks and figures else "", figures=figures)
