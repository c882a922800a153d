"""The page that a run leaves behind: one self-contained HTML file of curves, tables, settings, environment.

Written at the end of a training; `python -m sslsv.report runs/NAME` writes it for one that is still running
or was stopped.
"""

import html
import io
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sslsv.config import ConfigError, read_config
from sslsv.run_folder import RunFolder, below
from sslsv.setting_checks import is_among

# Title, keys (one line each), whether the axis is logarithmic.
CURVES = (
    ("EER, percent", ("eer", "test/"), False),
    ("Loss", ("loss",), False),
    ("Learning rate", ("learning_rate",), False),
    ("Gradient norm", ("gradient_norm",), True),
    ("Spread of embeddings (0 = collapsed, 1 = even)", ("feature_std", "batch_feature_std"), False),
    ("Effective rank of embeddings", ("effective_rank",), False),
    ("Samples per second", ("samples_per_second",), False),
    ("Share of time waiting for data", ("data_wait_share",), False),
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430 }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.muted { color: #667 }
table { border-collapse: collapse }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
.plots svg { width: 100%; height: auto }
pre { background: #f5f6f8; padding: 1rem; overflow-x: auto; font-size: 13px }
.warning { background: #fff4d6; padding: .6rem 1rem; border-left: 4px solid #e0a100 }
"""


def write_report(folder: RunFolder) -> None:
    """Write report.html from what else is in the run folder; it may be written anew at any time."""
    summary = folder.read_json("summary.json") if folder.has("summary.json") else {}
    records = folder.metrics()
    state = "finished" if summary.get("is_finished") else "not finished"
    trials = list(summary.get("trial_sets", {}).items())
    warnings = [*doubts(folder), *notices(records, summary)]
    parts = [
        f"<h1>{html.escape(folder.name)}</h1>",
        f'<p class="muted">{state}, {len(records)} records</p>',
        *[f'<p class="warning">{html.escape(text)}</p>' for text in warnings],
        "<h2>Results</h2>" + table(results(summary, records)),
        '<h2>Curves</h2><div class="plots">' + "".join(curves(records)) + "</div>",
        "<h2>Trials</h2>" + table(trials),
        "<h2>Environment</h2>" + table(list(summary.get("environment", {}).items())),
        "<h2>Settings</h2><pre>" + html.escape(folder.read("config.yml").decode()) + "</pre>",
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(folder.name)}</title><style>{STYLE}</style>" + "\n".join(parts) + "</html>"
    )
    folder.write("report.html", page.encode())


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


def notices(records: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    """Sentences that a reader must not miss."""
    found = [record["notice"] for record in records if record.get("notice")]
    bad = summary.get("bad_utterances", {})
    return [
        *dict.fromkeys(found[-1:]),
        *([summary["stop_reason"]] if summary.get("stop_reason") else []),
        *[f"Skipped: {sentence}" for sentence in list(bad.values())[:20]],
        *([f"... and {len(bad) - 20} more unreadable recordings."] if len(bad) > 20 else []),
    ]


def results(summary: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Rows of the result table: best and last checkpoint, speed, time."""
    rows: list[tuple[str, Any]] = []
    best, last = summary.get("best", {}), summary.get("last", {})
    if best.get("eer") is not None:
        rows.append(("best validation EER", f"{best['eer']:.2f} % at step {best['step']}"))
    for which, values in (("last", last), ("best", best)):
        for key, value in values.items():
            if key.startswith("test/"):
                _, name, metric = key.split("/", 2)
                shown = f"{value:.2f} %" if metric == "eer" else f"{value:.4f}"
                rows.append((f"{name}: {metric}, {which} checkpoint (step {values['step']})", shown))
    if records:
        newest = {key: records[-1][key] for key in ("step", "epoch", "loss", "eer") if key in records[-1]}
        rows.append(("last record", newest))
    if summary:
        speed, workers = summary["samples_per_second"], summary["workers"]
        rows.append(("speed", f"{speed:.1f} samples per second, {workers} worker(s)"))
        rows.append(("time", f"{summary['seconds'] / 60:.1f} minutes"))
    return rows


def curves(records: list[dict[str, Any]]) -> list[str]:
    """One SVG picture per group of keys that the records have."""
    pictures = []
    for title, wanted, is_logarithmic in CURVES:
        keys = sorted({key for record in records for key in record if _is_wanted(key, wanted)})
        if not keys:
            continue
        figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
        for key in keys:
            points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
            marker = "." if len(points) < 60 else None
            axes.plot(*zip(*points, strict=True), label=key, marker=marker, linewidth=1.3)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if is_logarithmic:
            axes.set_yscale("log")
        if len(keys) > 1:
            axes.legend(fontsize=8, frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
        pictures.append(stream.getvalue()[stream.getvalue().index("<svg") :])
    return pictures


def _is_wanted(key: str, wanted: tuple[str, ...]) -> bool:
    groups = tuple(prefix for prefix in wanted if prefix.endswith("/"))
    return key in wanted or (key.startswith(groups) and key.endswith("/eer"))


def table(rows: list[tuple[str, Any]]) -> str:
    """Two columns; a dictionary is shown as `key value, key value`."""
    if not rows:
        return '<p class="muted">none yet</p>'

    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(v)}" for key, v in value.items())
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = (f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(shown(v))}</td></tr>" for k, v in rows)
    return f"<table>{''.join(lines)}</table>"


def main(arguments: list[str]) -> int:
    """Command line entry; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m sslsv.report RUN_FOLDER", file=sys.stderr)
        return 2
    folder = RunFolder.at(arguments[0])
    if not folder.has("config.yml"):
        print(f"error: {folder.location} is no run folder: it has no config.yml", file=sys.stderr)
        return 2
    write_report(folder)
    print(below(folder.location, "report.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
