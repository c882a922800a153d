"""The page of an evaluation: every metric with its interval, curves, and where the errors come from."""

from collections.abc import Iterator, Mapping, Sequence
from posixpath import basename
from typing import Any

from sslsv.evaluation.error_analysis import SpeakerErrors, hardest_trials, speaker_names
from sslsv.evaluation.trials import ScoredList
from sslsv.reports.evaluation_plots import (
    ErrorTradeOff,
    det_plot,
    embedding_map,
    score_plot,
    speaker_plot,
)
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
    page,
    pairs,
    plots,
    section,
    table,
)

WORST = 10  # speakers and trials that are named
NAMED_IN_PLOT = 5


def evaluation_page(evaluation: Mapping[str, Any], lists: Sequence[ScoredList]) -> str:
    """The HTML of an evaluation: `evaluation` is what evaluation.json holds, `lists` what it was made of."""
    run = str(evaluation.get("run", ""))
    parts = [
        muted(" ".join(provenance(evaluation))),
        *[muted(sentence) for sentence in evaluation.get("notes", [])],
        facts(principal_eer(lists)),
        *[list_section(item, has_map=item is lists[0]) for item in lists],
        section("Settings", folded("of the run", element("pre", evaluation.get("settings", "")))),
        section("Environment", pairs(evaluation.get("environment", {}))),
    ]
    return page(f"Evaluation of {basename(run.rstrip('/')) or 'a run'}", *parts)


def provenance(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what was evaluated."""
    if "run" in evaluation:
        yield f"Run: {evaluation['run']}."
    checkpoint = evaluation.get("checkpoint", {})
    if checkpoint:
        steps = ", ".join(f"{step:,}" for step in checkpoint.get("steps", []))
        files = ", ".join(checkpoint.get("files", []))
        yield f"Checkpoint: {checkpoint.get('which', '')}, step {steps or 'unknown'} ({files})."
    if "seconds" in evaluation:
        yield f"It took {duration(evaluation['seconds'])}."


def principal_eer(lists: Sequence[ScoredList]) -> Iterator[tuple[str, str, str]]:
    """For every list the EER of its first scoring."""
    for item in lists:
        name = next(iter(item.scores), "")
        metric = item.summary.get("scorings", {}).get(name, {}).get("eer")
        if metric:
            yield f"{item.name}: EER", metric_text("eer", metric["value"]), interval_text("eer", metric)


def list_section(item: ScoredList, *, has_map: bool) -> Html:
    """All that is known of one list."""
    trade_offs = {name: ErrorTradeOff.of(scores, item.trials.targets) for name, scores in item.scores.items()}
    if not trade_offs:
        return section(item.name, metric_table(item.summary.get("scorings", {})), checksum(item.summary))
    principal, scores = next(iter(item.scores.items()))
    threshold = trade_offs[principal].eer_threshold
    errors = SpeakerErrors.of(item, scores, threshold)
    names = speaker_names(item.trials.paths, item.speakers)
    worst = errors.worst(WORST).tolist()
    figures = [
        det_plot(item.name, trade_offs),
        score_plot(item.name, scores, item.trials.targets, trade_offs[principal]),
        speaker_plot(item.name, errors, names, worst[:NAMED_IN_PLOT]),
    ]
    if has_map and (picture := embedding_map(item.embeddings, item.speakers, names)) is not None:
        figures.append(picture)
    return section(
        item.name,
        metric_table(item.summary.get("scorings", {})),
        counts(item.summary.get("counts", {})),
        checksum(item.summary),
        muted(f"Scores, speakers and trials below are those of {principal}.") if len(item.scores) > 1 else "",
        plots(figures, are_large=True),
        speaker_table(errors, names, worst),
        hardest(item, scores),
    )


def metric_table(scorings: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Html:
    """A row per scoring, a column per metric, with intervals."""
    metrics = list(dict.fromkeys(m for values in scorings.values() for m in values if "value" in values[m]))
    rows = [
        [name, *[metric_cell(m, values[m]) if "value" in values.get(m, {}) else "–" for m in metrics]]
        for name, values in scorings.items()
    ]
    has_intervals = any("low" in metric for values in scorings.values() for metric in values.values())
    explained = muted("In brackets: 95 % intervals, speakers drawn anew.") if has_intervals else ""
    return joined([table(["scoring", *map(metric_title, metrics)], rows), explained])


def metric_cell(key: str, metric: Mapping[str, float]) -> Html:
    """A value, and below it its interval."""
    interval = interval_text(key, metric)
    return joined(
        [metric_text(key, metric["value"]), *([" ", element("small", f"({interval})")] if interval else [])]
    )


def interval_text(key: str, metric: Mapping[str, float]) -> str:
    """`11.02 to 17.13`, or nothing."""
    if "low" not in metric or "high" not in metric:
        return ""
    return " to ".join(metric_text(key, metric[end], unit="") for end in ("low", "high"))


def counts(values: Mapping[str, int]) -> Html:
    """`4,000 trials, 2,000 targets, ...`"""
    words = [f"{value:,} {key.replace('_', ' ')}" for key, value in values.items() if isinstance(value, int)]
    return muted(f"{', '.join(words)}.") if words else Html()


def checksum(summary: Mapping[str, Any]) -> Html:
    """Which file the list is, beyond doubt."""
    words = [f"{key} {summary[key]}" for key in ("file", "sha256") if key in summary]
    return muted(f"{', '.join(words)}.") if words else Html()


def speaker_table(errors: SpeakerErrors, names: Sequence[str], worst: Sequence[int]) -> Html:
    """The speakers that cost most."""

    def share(some: int, of: int) -> str:
        return f"{some:,} of {of:,} ({100 * some / of:.1f} %)" if of else "–"

    rows = [
        [
            names[i],
            int(errors.recordings[i]),
            share(errors.misses[i], errors.targets[i]),
            share(errors.false_alarms[i], errors.nontargets[i]),
        ]
        for i in worst
    ]
    ranked = muted(
        "Ranked by what they add to the error rates beyond an average speaker with as many trials. "
        "A nontarget trial counts for both of its speakers."
    )
    header = ["speaker", "recordings", "target trials missed", "nontarget trials accepted"]
    return section("Speakers with most errors", table(header, rows), ranked, level=3) if rows else Html()


def hardest(item: ScoredList, scores: Any) -> Html:
    """The trials that the model is most wrong about."""
    paths, trials = item.trials.paths, item.trials
    tables = []
    for heading, found in zip(
        (
            "Hardest target trials: one speaker, low score",
            "Hardest nontarget trials: two speakers, high score",
        ),
        hardest_trials(scores, trials.targets, WORST),
        strict=True,
    ):
        rows = [[f"{scores[j]:.4f}", paths[trials.enrol[j]], paths[trials.test[j]]] for j in found]
        tables.append(section(heading, table(["score", "enrolment", "test"], rows), level=3))
    return joined(tables)
