"""Write the report of a training run, finished or still running, from its folder, without PyTorch."""

import contextlib
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from sslsv.reports.page import Link, Record, Section, duration, interval, metric_text, metric_title, render
from sslsv.reports.plots import Curve, line_chart
from sslsv.runs.folder import RunFolder, below
from sslsv.settings import parse_yaml

NAMED = {"method": "model", "encoder": "encoder"}  # title in reports -> section with a `name`
VERIFICATION, TRAINING, SPEED = "Verification", "Training", "Speed"
EMBEDDINGS = "Embeddings, without labels"
# Keys that share a chart with `label_free/...`, measured on other recordings: chart, name of the line.
OF_RECORDINGS = {
    "feature_std": ("feature_std", "validation recordings"),
    "effective_rank": ("rankme", "validation recordings"),
    "uniformity": ("uniformity", "validation recordings"),
    "batch_feature_std": ("feature_std", "training crops"),
}
NO_CURVES = {"step", "epoch", "seconds", "total_steps", "seconds_left", "best_value"}
MAX_SKIPPED = 1000  # skipped files listed per kind


def write_report(folder: RunFolder) -> None:
    """Write report.html from the other files in the run folder."""
    summary, run = (folder.read_json(f) if folder.has(f) else {} for f in ("summary.json", "run.json"))
    settings, records = folder.read("config.yml").decode(), folder.metrics()
    warnings = run.pop("warnings", [])
    best, last = best_and_last(summary, records)
    skipped: dict[str, Record] = defaultdict(dict)
    for source in (*records, summary):
        for kind, reasons in source.get("skipped", {}).items():
            if reasons:
                skipped[kind.replace("_", " ")] |= reasons
    sections = [
        results(best, last),
        *curve_sections(records, best.get("step")),
        *(Section(f"Skipped {k}", pairs=dict(islice(v.items(), MAX_SKIPPED))) for k, v in skipped.items()),
        Section("Trials", pairs=summary.get("trial_sets", {})),
        Section("Settings", text=settings),
        Section("Environment", pairs=summary.get("environment") or run),
    ]
    notes = [*warnings, *optimism_warnings(settings), *[r["notice"] for r in records if r.get("notice")][-1:]]
    notes += filter(None, [summary.get("stop_reason")])
    notes += [f"{len(files):,} {kind} could not be read, see below." for kind, files in skipped.items()]
    notes = list(dict.fromkeys(notes))  # The stop reason may repeat the last notice.
    latest = defaultdict(int, {k: v for k, v in (records or [{}])[-1].items() if v is not None})
    is_finished, (speed, wait_share) = bool(summary.get("is_finished")), speed_of(records)
    remaining = "in all" if is_finished else f"about {duration(latest['seconds_left'])} to go"
    names = ("EER", "EER, best", "EER, last")
    eers = [(r["trials"], next((r[n] for n in names if n in r), "")) for r in rows_of(best, last)]
    facts = [
        *((f"EER, {name}", *f"{text}\n".split("\n")[:2]) for name, text in eers if text),
        ("steps", f"{latest['step']:,}", f"of {latest['total_steps']:,}, epoch {latest['epoch']:.1f}"),
        ("time", duration(latest["seconds"]), remaining),
        ("utterances per second", f"{speed:,.0f}", f"{wait_share:.0%} of the time waiting for data"),
    ]
    started = f"started {run.get('started', 'at an unknown time')}"
    sentence = f"Training run, {'finished' if is_finished else 'not finished'}, {started}."
    parts = {"notes": notes, "facts": facts, "head": origin(folder), "links": links(folder)}
    folder.write("report.html", render(folder.name, sections, sentences=[sentence], **parts))


def origin(folder: RunFolder) -> dict[str, str]:
    """Return method, encoder, training data, hardware and command as text, as far as they are known."""
    trained, run = (folder.read_json(f) if folder.has(f) else {} for f in ("trained.json", "run.json"))
    settings = (parse_yaml(folder.read("config.yml").decode()) or {}) if folder.has("config.yml") else {}
    facts = {title: settings[key]["name"] for title, key in NAMED.items() if key in settings}
    if trained:
        sizes = [f"{trained[key] / 1e6:.2f} M" for key in ("encoder_parameters", "parameters")]
        facts["encoder"] += f", {sizes[0]} parameters ({sizes[1]} with the rest of the method)"
        counts = f"{trained['utterances']:,} utterances of {trained['speakers']:,} speakers"
        facts["speech"] = f"{trained['hours']:,.1f} hours, {counts}"
        machine = trained["environment"].get("gpu") or trained["environment"]["cpu"]
        facts["hardware"] = f"{trained['workers']} training worker(s), {machine}"
    return facts | {"command": run.get("command", "")}


def links(folder: RunFolder) -> list[Link]:
    """Return links to the evaluations of a run and, if the run is a trial, to its sweep."""
    pages = []
    for name in folder.names("evaluation"):
        if name.endswith(".html"):
            title = name.removesuffix(".html").replace("report", "evaluation").capitalize()
            pages.append(Link.to(f"evaluation/{name}", ".", title))
    sweep, kind = posixpath.split(posixpath.dirname(folder.location))
    if kind == "trials" and RunFolder.at(sweep).has("sweep.json"):
        page = below(sweep, "report.html")
        pages.append(Link.to(page, folder.location, f"Sweep {posixpath.basename(sweep)}"))
    return pages


def update_report(folder: RunFolder, out: RunFolder) -> None:
    """Rewrite the report of a run, to link to a new page in `out`, if `out` is its evaluation folder."""
    if folder.has("report.html") and out.location == below(folder.location, "evaluation"):
        with contextlib.suppress(OSError):  # The run folder may be read-only.
            write_report(folder)


def of_run(folder: RunFolder, out: RunFolder) -> dict[str, Any]:
    """Return what a page in the folder `out` shows of a run: `trained`, and `links` to its report."""
    page = Link.to(below(folder.location, "report.html"), out.location, f"Run {folder.name}")
    return {"trained": origin(folder), "links": [page] * folder.has("report.html")}


def speed_of(records: list[Record]) -> tuple[float, float]:
    """Return utterances per second and the share of the time that the first worker waits for data.

    Both are averages over all records; the time of validation and tests does not count.
    """
    timed = [record for record in records if record.get("samples_per_second")]
    steps = [after["step"] - before["step"] for before, after in pairwise([{"step": 0}, *timed])]
    seconds = [n / record["samples_per_second"] for n, record in zip(steps, timed, strict=True)]
    waiting = [s * record["data_wait_share"] for s, record in zip(seconds, timed, strict=True)]
    return (sum(steps) / sum(seconds), sum(waiting) / sum(seconds)) if any(seconds) else (0.0, 0.0)


def summary_lines(folder: RunFolder) -> Iterator[str]:
    """Yield the results of a finished run as lines for the terminal."""
    summary, records = folder.read_json("summary.json"), folder.metrics()
    section, (speed, wait_share) = results(*best_and_last(summary, records)), speed_of(records)
    yield from filter(None, [summary["stop_reason"], section.sentence])
    for row in section.tables[""]:
        texts = [f"{name} {text}".replace("\n", ", ") for name, text in row.items() if name != "trials"]
        yield f"{row['trials']}: {'; '.join(texts)}"
    speed_text = f"{speed:,.0f} utterances per second, {wait_share:.0%} of the time waiting for data"
    yield f"trained for {duration(summary['seconds'])}: {speed_text}"


def optimism_warnings(settings: str) -> Iterator[str]:
    """Yield a warning if the settings make the results look better than they are."""
    data, evaluation = ((parse_yaml(settings) or {}).get(name) or {} for name in ("data", "evaluation"))
    lists = [evaluation.get("validation"), *(evaluation.get("test") or [])]
    locations = [posixpath.normpath(posixpath.join(data.get("root", ""), name or "")) for name in lists]
    if lists[0] and locations[0] in locations[1:]:
        yield (
            f"The best checkpoint was chosen on the test trials {lists[0]!r} "
            "(evaluation.allow_validation_on_test): its results on them look better than they are."
        )


def best_and_last(summary: Record, records: list[Record]) -> tuple[Record, Record]:
    """Return the records of the best and of the last validated checkpoint; `summary` may be empty.

    Both have `step` and metrics, the best one also `criterion` and `value`. Unvalidated runs have none.
    """
    validated = {r["step"]: r for r in records if "criterion" in r or any(map(list_and_metric, r))}
    newest = validated[max(validated)] if validated else {}
    criterion, value = newest.get("criterion", ""), newest.get("best_value")
    steps = [step for step, r in validated.items() if value is not None and r.get(criterion) == value]
    so_far = {"step": steps[0], "criterion": criterion, "value": value} if steps else {}
    best, last = summary.get("best") or so_far, summary.get("last") or newest
    return validated.get(best.get("step"), {}) | best, validated.get(last.get("step"), {}) | last


def results(best: Record, last: Record) -> Section:
    """Return a section with the steps of both checkpoints and a table with a row per trial list."""
    sentence = f"Last: step {last['step']:,}." if last else "Nothing was validated or tested yet."
    if "criterion" in best:
        name, value = metric_title(best["criterion"]), metric_text(best["criterion"], best["value"])
        sentence = f"Best: step {best['step']:,}, by {name} in validation ({value}). {sentence}"
    return Section("Results", sentence, {"": rows_of(best, last)})


def rows_of(best: Record, last: Record) -> list[Record]:
    """Return a row per trial list: metrics of the best and of the last checkpoint, an interval below each."""
    rows: dict[str, Record] = {}
    is_same = best.get("step") == last.get("step")
    for suffix, values in [("", best | last)] if is_same else [(", best", best), (", last", last)]:
        for key, value in values.items():
            if (names := list_and_metric(key)) and value is not None:
                row = rows.setdefault(names[0], {"trials": names[0]})
                row[f"{metric_title(names[1])}{suffix}"] = with_interval(names[1], values, key)
    return list(rows.values())


def with_interval(metric: str, values: Record, key: str) -> str:
    """Return the value at a key as text, with its interval below if `values` has `<key>_low` and `_high`."""
    ends = {end: values[f"{key}_{end}"] for end in ("low", "high") if f"{key}_{end}" in values}
    return f"{metric_text(metric, values[key])}\n{interval(metric, ends)}".strip()


def curve_sections(records: list[Record], best_step: int | None) -> Iterator[Section]:
    """Yield a section of charts per heading, for every key of the records that holds numbers."""
    charts: dict[str, dict[str, list[Curve]]] = {h: {} for h in (VERIFICATION, TRAINING, EMBEDDINGS, SPEED)}
    keys = {key for record in records for key in record} - NO_CURVES
    for key in sorted(keys, key=lambda key: (key != "loss", key)):
        points = {r["step"]: r[key] for r in records if type(r.get(key)) in (int, float)}
        if points:
            heading, quantity, name = chart_of(key)
            charts[heading].setdefault(quantity, []).append((name, list(points), list(points.values())))
    for heading, curves in charts.items():
        marks = [] if best_step is None or heading in (TRAINING, SPEED) else [best_step]
        figures = [line_chart(metric_title(key), lines, marks) for key, lines in curves.items()]
        yield Section(heading, "Dotted: the best checkpoint." if marks and figures else "", figures=figures)


def chart_of(key: str) -> tuple[str, str, str]:
    """Return the heading, the chart and the name of the line for a key of the records."""
    if names := list_and_metric(key):
        return VERIFICATION, names[1], names[0]
    if key.startswith("label_free/"):
        return EMBEDDINGS, key.partition("/")[2], "training utterances"
    if key in OF_RECORDINGS:
        return EMBEDDINGS, *OF_RECORDINGS[key]
    is_speed = key == "samples_per_second" or key.endswith("_share")
    return SPEED if is_speed else TRAINING, key, key


def list_and_metric(key: str) -> tuple[str, str] | None:
    """Return trial list and metric of a key such as `eer` (validation) or `test/<list>/eer`, else None."""
    if key in ("eer", "min_dcf"):
        return "validation", key
    is_metric = key.startswith("test/") and not key.endswith(("_low", "_high"))  # the ends of an interval
    return (key.split("/")[1], key.split("/", 2)[2]) if is_metric else None
