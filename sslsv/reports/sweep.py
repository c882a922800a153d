"""The page of a sweep: what is best, what mattered, whether early stopping can be trusted, what it saved."""

from typing import Any

from sslsv.reports.page import (
    Html,
    duration,
    facts,
    metric_text,
    metric_title,
    muted,
    note,
    page,
    plots,
    section,
    shown,
    table,
)
from sslsv.reports.sweep_charts import against_setting, learning_curves, parallel_coordinates
from sslsv.search.analysis import TRUSTED, RungCorrelation, importance, rung_correlations, savings
from sslsv.search.confirmation import LEVEL, read_comparisons
from sslsv.search.criteria import rank_criteria
from sslsv.search.history import standing
from sslsv.search.population import Population
from sslsv.search.results import state_of
from sslsv.search.sweep import Sweep

MAX_ROWS = 50  # trials in the table; results.csv has all
SCHEDULE_NOTE = (
    "The settings of some trials changed half-way.  best.yml and the tables hold the last ones, the end of a "
    "schedule: a training with them alone is another one than the best trial's.  suggestions.jsonl has all."
)


def write_sweep_report(sweep: Sweep) -> None:
    """Write report.html from the sweep's files; it may be written anew at any time."""
    at_rungs = sweep.folder.at_rungs()
    metric, history = sweep.folder.metric, sweep.folder.history
    # Of trials that change half-way, the later order is no judgement of the earlier one.
    has_schedules = isinstance(sweep.space.scheduler, Population)
    correlations = [] if has_schedules else rung_correlations(at_rungs, metric)
    parts = [
        muted(
            f"Search over {len(sweep.suggester.dimensions)} settings of {sweep.space.base}: "
            f"{sweep.space.searcher}, {type(sweep.space.scheduler).__name__}, rungs at epochs "
            f"{', '.join(map(str, sweep.rungs))}."
        ),
        *[note(sentence) for sentence in warnings_of(correlations)],
        *([note(SCHEDULE_NOTE)] if has_schedules else []),
        facts(key_figures(sweep)),
        section("Trials", trials_table(sweep)),
    ]
    if history.outcomes:
        parts += [
            section("Learning curves", learning_curves(sweep)),
            section("What each setting did", _settings(sweep)),
            section("All settings together", parallel_coordinates(sweep)),
            section("Importance", importance_table(sweep)),
        ]
    parts += [
        section(
            "Did early rungs tell the end?", Html() if has_schedules else correlation_table(correlations)
        ),
        section("Without labels", criteria_table(sweep)),
        section("Confirmed on test trials", confirmation_table(sweep)),
    ]
    sweep.folder.folder.write("report.html", page(f"Sweep {sweep.folder.folder.name}", *parts).encode())


def warnings_of(correlations: list[RungCorrelation]) -> list[str]:
    """A sentence for every rung whose order did not last."""
    return [
        f"The order at epoch {found.early} hardly told that at epoch {found.late}: rank correlation "
        f"{found.rho:.2f}, below {TRUSTED}, over {found.trials} trials. Trials may have been stopped that "
        "would have won; let the first rung be later."
        for found in correlations
        if found.rho is not None and not found.is_trusted
    ]


def key_figures(sweep: Sweep) -> list[tuple[str, str, str]]:
    """The few numbers that matter most."""
    outcomes, metric = standing(sweep.folder.history), sweep.folder.metric
    found: list[tuple[str, str, str]] = []
    if outcomes and outcomes[0].can_win:
        best = outcomes[0]
        value = sweep.folder.value(best)
        assert value is not None  # it can win
        remark = f"trial {best.index}, epoch {sweep.rungs[best.rung]}; chosen on it, so a little too good"
        found.append((f"best {metric_title(metric)}, validation", metric_text(metric, value), remark))
    collapsed = sum(outcome.state == "collapsed" for outcome in outcomes)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    found.append(("trials", str(len(outcomes)), f"{collapsed} collapsed, {failed} failed"))
    saved = savings(sweep)
    if saved is not None:
        text = f"instead of {saved.epochs_in_full:g}: {saved.factor:.1f} times fewer"
        found.append(("epochs trained", f"{saved.epochs:g}", text))
        text = f"of training; all to the end, at this pace: {duration(saved.seconds_in_full)}"
        found.append(("time", duration(saved.seconds), text))
    return found


def trials_table(sweep: Sweep) -> Html:
    """Best first: state, epoch, metric and settings of each trial."""
    keys = list(sweep.suggester.dimensions)
    rows = []
    for outcome in standing(sweep.folder.history)[:MAX_ROWS]:
        settings, value = sweep.folder.suggestions[outcome.index], sweep.folder.value(outcome)
        text = "–" if value is None else metric_text(sweep.folder.metric, value)
        epoch = sweep.rungs[outcome.rung]
        values = [shown(settings.get(key, "–")) for key in keys]
        rows.append([outcome.index, state_of(sweep, outcome), epoch, text, *values])
    header = ["trial", "state", "epoch", metric_title(sweep.folder.metric), *[_last(key) for key in keys]]
    return table(header, rows)


def importance_table(sweep: Sweep) -> Html:
    """Share of the variance that each setting explains."""
    folder = sweep.folder
    first = {index: folder.settings_at(index, rung=0) for index in folder.suggestions}
    shares, count = importance(sweep.suggester, first, folder.history)
    remark = (
        f"Share of the variance of {metric_title(folder.metric)} at epoch {sweep.rungs[0]}, by a "
        f"random forest over {count} trials that got there alive (fANOVA). With few trials this is a hint, "
        "not a finding."
    )
    rows = [[name, f"{share:.0%}"] for name, share in shares.items()]
    return Html(muted(remark) + table(["setting", "share"], rows)) if rows else Html()


def correlation_table(correlations: list[RungCorrelation]) -> Html:
    """Rank correlation of each two rungs."""
    rows = [
        [f"{c.early} and {c.late}", c.trials, "–" if c.rho is None else f"{c.rho:+.2f}"] for c in correlations
    ]
    remark = (
        "Spearman's rank correlation of the trials that reached both; these were the better ones, so it is "
        "likely to be lower than it would be over all."
    )
    if not rows:
        return muted("No two rungs were reached by three trials.")
    return Html(table(["epochs", "trials", "correlation"], rows) + muted(remark))


def criteria_table(sweep: Sweep) -> Html:
    """How well criteria without labels would have ordered the trials."""
    at_rungs = {epoch: list(records.values()) for epoch, records in sweep.folder.at_rungs().items()}
    rows: list[list[Any]] = [
        [
            metric_title(found.criterion),
            found.epoch,
            found.trials,
            "–" if found.tau is None else f"{found.tau:+.2f}",
            f"{found.regret:.2f} %",
            f"{found.overlap * found.top:.0f} of {found.top}",
        ]
        for found in rank_criteria(at_rungs)
    ]
    remark = (
        "Each criterion's order against that by validation EER. Kendall's tau: 1 where both agree on every "
        "pair, 0 by chance; regret: EER that the criterion's choice loses against the best; last: how many "
        "of its best are among the best by EER."
    )
    header = ["criterion", "epoch", "trials", "Kendall tau", "regret, EER", "best in common"]
    return Html(table(header, rows) + muted(remark)) if rows else Html()


def confirmation_table(sweep: Sweep) -> Html:
    """The best trials against the base, trained anew with other seeds; nothing before they were."""
    found = read_comparisons(sweep.folder.folder)
    rows = [
        [
            f"trial {c.trial}",
            c.test_list,
            c.seeds,
            f"{c.mean:.2f} % (sd {c.sd:.2f})",
            f"{c.base_mean:.2f} % (sd {c.base_sd:.2f})",
            f"{c.difference:+.2f} ({c.low:+.2f} to {c.high:+.2f})",
            c.lost,
            c.verdict,
        ]
        for c in found
    ]
    remark = (
        "EER of settings trained from scratch with other seeds, against the base with the same ones; "
        f"intervals of the paired difference, {LEVEL:.0%} for all rows together.  Lost: seeds with which one "
        "of the two collapsed or failed; the others tell too good a tale, so nothing is called better then."
    )
    header = ["settings", "trials", "seeds", "EER", "base", "difference", "lost", ""]
    return Html(table(header, rows) + muted(remark)) if rows else Html()


def _settings(sweep: Sweep) -> Html:
    remark = (
        "Hollow: at the first rung; filled: at the last that the trial reached; crosses: collapsed or failed."
    )
    return Html(muted(remark) + plots([against_setting(sweep, key) for key in sweep.suggester.dimensions]))


def _last(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")
