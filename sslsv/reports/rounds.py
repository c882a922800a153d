"""Write the report of a pseudo-label loop, finished or still running, from the files in its folder."""

from sslsv.reports.page import Figure, Record, Section, duration, metric_text, metric_title, render
from sslsv.reports.plots import Curve, line_chart
from sslsv.reports.training import list_and_metric, optimism_warnings, with_interval
from sslsv.runs.folder import RunFolder

SHARES = {
    "kept": "kept",
    "corrected": "corrected",
    "nmi_before": "NMI with the round before",
    "nmi": "NMI with speakers",
    "purity": "purity",
    "kept_purity": "purity of kept utterances",
}
PARTS = ("embedding", "clustering", "training")


def write_rounds_report(folder: RunFolder) -> None:
    """Write report.html from the other files in the folder of the loop."""
    records = folder.records("rounds.jsonl")
    summary = folder.read_json("summary.json") if folder.has("summary.json") else {}
    settings = folder.read("loop.yml").decode()
    notes = list(optimism_warnings(settings))
    sentence = f"Pseudo-label loop, {'finished' if summary else 'not finished'}."
    sentence += "" if notes else " No choice used test trials."
    if any("purity" in record for record in records):
        notes.append("Purity and NMI with speakers compare with a list of labels. No choice used it.")
    facts = [("best stage", summary["best"]["stage"], summary["run"])] if summary else []
    clustered = [record for record in records if "clusters" in record]
    sections = [
        Section("Stages", tables={"": [stage_row(record) for record in records]}),
        Section("Over the rounds", figures=round_charts(clustered)),
        Section("Clusters", tables={"": [clusters_row(record) for record in clustered]}),
        Section("Time", tables={"": [times_row(record) for record in records]}),
        *(Section(f"Unreadable in {record['stage']}", pairs=record["unreadable"]) for record in clustered),
        Section("Settings", text=settings),
    ]
    folder.write("report.html", render(folder.name, sections, sentences=[sentence], notes=notes, facts=facts))


def stage_row(record: Record) -> Record:
    """Return the results of a stage by column: validation, shares, test trials."""
    criterion = record["criterion"] or "none"
    row = {"stage": record["stage"], "chosen by": metric_title(criterion)}
    row["value"] = None if record["value"] is None else metric_text(criterion, record["value"])
    row |= {title: record[key] for key, title in SHARES.items() if record.get(key) is not None}
    for key in record["test"]:
        if names := list_and_metric(key):
            row[f"{names[0]}, {metric_title(names[1])}"] = with_interval(names[1], record["test"], key)
    return row


def clusters_row(record: Record) -> Record:
    """Return numbers and sizes of the clusters, and the silhouettes of all cluster counts tried."""
    names = ("smallest", "quarter", "median", "three quarters", "largest")
    counts = {key.replace("_", " "): record[key] for key in ("clusters", "utterances", "left_out")}
    sizes = dict(zip(names, record["sizes"], strict=True))
    return {"stage": record["stage"], **counts, **sizes, "silhouettes": record["silhouettes"]}


def times_row(record: Record) -> Record:
    """Return how long each part of a stage took, and its share of the stage."""
    seconds = {part: record[f"{part}_seconds"] for part in PARTS if f"{part}_seconds" in record}
    total = max(sum(seconds.values()), 1e-9)
    parts = {part: f"{duration(value)} ({value / total:.0%})" for part, value in seconds.items()}
    return {"stage": record["stage"], **parts}


def round_charts(records: list[Record]) -> list[Figure]:
    """Draw error rates and shares over the rounds."""
    flat = [{**record, **record["test"]} for record in records]
    errors = {key: key.split("/")[1] for record in records for key in record["test"] if key.endswith("/eer")}
    figures = []
    for caption, names in {"EER": {"eer": "validation", **errors}, "shares": SHARES}.items():
        curves: list[Curve] = []
        for key, name in names.items():
            values = {record["stage"]: record[key] for record in flat if record.get(key) is not None}
            if values:
                curves.append((name, [int(s.partition("_")[2]) for s in values], [*values.values()]))
        if curves:
            figures.append(line_chart(caption, curves, xlabel="round"))
    return figures


def round_line(record: Record) -> str:
    """Return the results of a stage as a line for the terminal."""
    phrases = [f"{record['stage']}:"]
    if "clusters" in record:
        phrases.append(f"{record['clusters']:,} clusters of {record['utterances']:,} utterances,")
    phrases += [f"{title} {record[key]:.3f}," for key, title in SHARES.items() if record.get(key) is not None]
    if record["value"] is not None:
        text = metric_text(record["criterion"], record["value"])
        phrases.append(f"{metric_title(record['criterion'])} {text} in validation")
    return " ".join(phrases).rstrip(",")
