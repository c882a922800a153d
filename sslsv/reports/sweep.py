"""Write the report of a sweep: the best trials, the settings that mattered, what early stopping saved.

It reads sweep.json, results.csv, confirmation.json and the metrics.jsonl of the trials.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from sslsv.config import CRITERIA, is_better
from sslsv.reports.page import Link, Record, Section, duration, metric_text, metric_title, render, shown
from sslsv.reports.plots import Curve, line_chart
from sslsv.reports.training import NAMED
from sslsv.runs.folder import RunFolder, below, here
from sslsv.settings import command_name, parse_yaml

MAX_ROWS = 50
NUM_NAMED = 3  # best trials with a curve in colour
LOST = ("collapsed", "failed")
FEWEST = 8  # With fewer trials the importance of settings is random.
FEWEST_RANKED = 3  # The order of two trials says nothing.
LABEL_FREE = [criterion for criterion in CRITERIA if criterion.startswith("label_free/")]
# A sum of ranks in which the pseudo-trial EER counts twice. It can't order good runs, and RankMe mistakes any
# spread for information. Together they chose well among the runs of docs/results.md, where this was found.
COMBINED = "pseudo-trial EER twice + RankMe, ranks"


def write_sweep_report(folder: RunFolder) -> None:
    """Write report.html from the other files in the folder of the sweep."""
    request, rows = folder.read_json("sweep.json"), read_results(folder)
    columns, rungs = [*rows[0]] if rows else ["epoch", "", "why"], request["rungs"]
    metric = columns[columns.index("epoch") + 1]  # The metric that decides comes first.
    measured = [key for key in columns if key in CRITERIA]
    good = [row for row in rows if row["state"] not in LOST and row.get(metric) is not None]
    settings = columns[columns.index("why") + 1 :]
    keys = [key for key in settings if any(row.get(key) is not None for row in good)]
    curves: list[Curve] = []
    at_rungs: dict[int, dict[int, Record]] = {epoch: {} for epoch in rungs}
    for position, row in enumerate(good):
        records = RunFolder.at(below(folder.location, f"trials/{row['trial']:04d}")).metrics()
        by_epoch = {record["epoch"]: record for record in records if record.get(metric) is not None}
        if by_epoch:
            label = f"trial {row['trial']}" if position < NUM_NAMED else ""
            curves.append((label, [*by_epoch], [record[metric] for record in by_epoch.values()]))
        for epoch, record in by_epoch.items():
            at_rungs.get(round(epoch), {})[row["trial"]] = record
    charts = grid_charts(good, keys, metric) if request.get("searcher") == "grid" else []
    title, setting_values = metric_title(metric), {key: [row[key] for row in good] for key in keys}
    table = [
        {"trial": page_of(folder, row["trial"]), "state": row["state"], "epoch": row["epoch"]}
        | {metric_title(m): None if row[m] is None else metric_text(m, row[m]) for m in measured}
        | {key: row.get(key) for key in keys}
        | ({"why": row["why"]} if row["why"] else {})
        for row in rows[:MAX_ROWS]
    ]
    note = f"The best {MAX_ROWS} of {len(rows):,} trials; results.csv has all." if rows[MAX_ROWS:] else ""
    first_values = [at_rungs[rungs[0]].get(row["trial"], {}).get(metric) for row in good]
    ranked = rank_criteria({epoch: list(by_trial.values()) for epoch, by_trial in at_rungs.items()})
    rankings = [{**row, "criterion": metric_title(row["criterion"])} for row in ranked]
    has_confirmed = folder.has("confirmation.json")
    confirmed = folder.read_json("confirmation.json")["comparisons"] if has_confirmed else []
    learning = [line_chart(title, curves, rungs[:-1], "epoch")] if curves else []
    sections = [
        Section("Trials", note, {"": table}),
        Section("Learning curves", figures=learning),
        Section("Over the grid", figures=charts),
        Section("Importance of settings", pairs=importance(setting_values, first_values)),
        Section("Without labels", tables={"": rankings}),
        Section("Confirmed on test trials", tables={"": [*map(confirmed_row, confirmed)]}),
        Section("Search space", text=request["space"]),
    ]
    sentence = f"Trials are compared at the rungs: epochs {shown(rungs)}."
    epochs, seconds = (sum(row.get(key) or 0 for row in rows) for key in ("epoch", "seconds"))
    full_epochs = epochs + sum(rungs[-1] - row["epoch"] for row in good)  # The others failed or collapsed.
    facts = [
        *((f"best {title}", metric_text(metric, row[metric]), f"trial {row['trial']}") for row in good[:1]),
        ("trials", str(len(rows)), f"{len(rows) - len(good)} collapsed or failed"),
        ("epochs trained", f"{epochs:g}", f"{full_epochs:g} without early stopping"),
        ("time", duration(seconds), "of training, all trials together"),
    ]
    base = parse_yaml(request.get("base", "")) or {}
    head = {name: base[key]["name"] for name, key in NAMED.items() if key in base}
    head |= {"space": request["space_file"], "searched": ", ".join(keys)}
    head |= {"chosen by": title and f"{title} in validation", "command": request.get("command", "")}
    if good:
        head["best"] = ", ".join(f"{key} {shown(good[0][key])}" for key in keys if good[0][key] is not None)
        head["train it again"] = f"{command_name('train')} {here(below(folder.location, 'best.yml'))}"
    parts = {"sentences": [sentence], "facts": facts, "head": head}
    folder.write("report.html", render(f"Sweep {folder.name}", sections, **parts))


def page_of(folder: RunFolder, trial: int) -> Link | int:
    """Return a link to the page of a trial, or its number if it has none."""
    name = f"trials/{trial:04d}/report.html"
    return Link.to(name, ".", str(trial)) if folder.has(name) else trial


def confirmed_row(found: Record) -> Record:
    """Return a comparison with the base as a table row."""
    tuned, base = (f"{found[f'{prefix}mean']:.2f} ± {found[f'{prefix}sd']:.2f}" for prefix in ("", "base_"))
    ends = f"{found['difference']:+.2f}\n{found['low']:+.2f} to {found['high']:+.2f}"
    counts = {key: found[key] for key in ("trial", "test_list", "seeds", "lost")}
    return {**counts, "EER": tuned, "EER of the base": base, "difference": ends, "verdict": found["verdict"]}


def read_results(folder: RunFolder) -> list[Record]:
    """Return the rows of results.csv, best trial first, with None for empty cells."""
    text = folder.read("results.csv") if folder.has("results.csv") else b""
    if not text.strip():
        return []
    options = csv.ConvertOptions(strings_can_be_null=True)
    return list(csv.read_csv(pa.BufferReader(text), convert_options=options).to_pylist())


def rank_criteria(at_rungs: Mapping[int, Sequence[Record]]) -> Iterator[Record]:
    """Compare the order of trials by each label-free criterion with that by EER: epoch -> trial records.

    `tau` is Kendall's tau-b, -1 to 1: 1 if both orders agree, None if one is constant. `regret` is the EER of
    the trial that the criterion chooses minus the best EER, in percentage points; the mean over ties.
    """
    from scipy.stats import kendalltau, rankdata  # The import takes half a second.

    for epoch, records in at_rungs.items():
        measured = [record for record in records if record.get("eer") is not None]
        eers = np.array([record["eer"] for record in measured], np.float64)
        costs = {}
        for criterion in LABEL_FREE:
            values = np.array([record.get(criterion) for record in measured], np.float64)  # None becomes NaN
            costs[criterion] = values if is_better(criterion, 0.0, than=1.0) else -values
        ranks = {name: rankdata(values, nan_policy="omit") for name, values in costs.items()}
        costs[COMBINED] = 2 * ranks["label_free/pseudo_eer"] + ranks["label_free/rankme"]
        for criterion, values in costs.items():
            is_known = np.isfinite(values) & np.isfinite(eers)
            known_values, known_eers = values[is_known], eers[is_known]
            if len(known_values) >= FEWEST_RANKED:
                tau = kendalltau(known_values, known_eers).statistic
                yield {
                    "criterion": criterion,
                    "epoch": epoch,
                    "trials": len(known_values),
                    "tau": None if np.isnan(tau) else float(tau),
                    "regret": float(known_eers[known_values == known_values.min()].mean() - known_eers.min()),
                }


def grid_charts(rows: Sequence[Record], keys: Sequence[str], metric: str) -> list[tuple[str, str]]:
    """Draw the metric of finished trials over each numeric setting, a line per combination of the others."""
    title, finished, figures = metric_title(metric), [row for row in rows if row["state"] == "finished"], []
    varied = [key for key in keys if len({row[key] for row in finished}) > 1]
    for key in varied:
        lines: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        numeric_rows = [row for row in finished if type(row[key]) in (int, float)]
        for row in sorted(numeric_rows, key=itemgetter(key)):
            others = [f"{other.rpartition('.')[2]} {shown(row[other])}" for other in varied if other != key]
            x, y = lines[", ".join(others).removeprefix("alternative ") or title]
            x.append(row[key])
            y.append(row[metric])
        if curves := [(label, x, y) for label, (x, y) in lines.items() if len(x) > 1]:
            ends = [end(x) for _, x, _ in curves for end in (min, max)]
            is_log = 0 < 20 * min(ends) < max(ends)
            figures.append(line_chart(f"{title} over {key}", curves, (), key, is_log))
    return figures


def importance(columns: Mapping[str, Sequence[Any]], values: Sequence[float | None]) -> dict[str, str]:
    """Return the share of the variance of the trials' values that each setting explains, largest first.

    Estimated by a random forest (fANOVA: Hutter et al., ICML 2014), without settings that some trials lack or
    that are equal in all trials.
    """
    indices = [i for i, value in enumerate(values) if value is not None]
    # Optuna raises an error if all values are equal.
    if len(indices) < FEWEST or len({values[i] for i in indices}) == 1:
        return {}
    import optuna  # The import takes a second.

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Numbers and strings are both replaced by their ranks, scaled to 0 to 1.
    filled = {key: [column[i] for i in indices] for key, column in columns.items() if None not in column}
    ranks = {k: np.unique(cells, return_inverse=True)[1] for k, cells in filled.items() if len({*cells}) > 1}
    study, ranges = optuna.create_study(), {k: optuna.distributions.FloatDistribution(0, 1) for k in ranks}
    for row, i in enumerate(indices):
        settings = {key: float(rank[row] / rank.max()) for key, rank in ranks.items()}
        study.add_trial(optuna.create_trial(params=settings, distributions={**ranges}, value=values[i]))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: f"{share:.0%}" for key, share in shares.items()}
