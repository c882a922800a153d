"""Which curves a training report shows, and what they are made of: the records of metrics.jsonl."""

from collections.abc import Iterator
from typing import Any

from sslsv.reports.page import Html, metric_title, plots, section
from sslsv.reports.plots import Curve, step_chart

Record = dict[str, Any]
Columns = dict[str, Curve]

# Key: title and remark of its chart.  Keys that are in none of these are loss terms: each model has its own.
TRAINING = {
    "loss": ("Loss", ""),
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Gradient norm", "before clipping"),
}
EMBEDDINGS = {
    "feature_std": ("Spread, of recordings", "0: collapsed, 1: all directions alike"),
    "batch_feature_std": ("Spread, of training crops", "0: collapsed, 1: all directions alike"),
    "mean_cosine": ("Mean cosine of different recordings", "1: collapsed, 0: spread out"),
    "effective_rank": ("Effective rank", "dimensions in use (RankMe)"),
    "uniformity": ("Uniformity", "0: collapsed, lower: more spread out"),
}
SPEED = {
    "samples_per_second": ("Samples per second", "all workers together, validation left out"),
    "data_wait_share": ("Share of time waiting for data", "0: the data is always there"),
    "validation_share": ("Share of time in validation", "of all time since the record before"),
    "checkpoint_share": ("Share of time writing checkpoints", "of all time since the record before"),
    "reporting_share": ("Share of time reporting", "of all time since the record before"),
}
METRICS = {"eer": "EER, percent", "min_dcf": "minDCF"}
LABEL_FREE_REMARKS = {
    "pseudo_eer": "percent; targets: crops of one utterance",
    "rankme": "dimensions in use, higher is better",
    "lidar": "dimensions that tell utterances apart, higher is better",
    "alpha_req": "decay of the spectrum, 0: none",
    "participation_ratio": "dimensions that hold the variance",
    "alignment": "distance of crops of one utterance, 0: none",
    "uniformity": "0: collapsed, lower: more spread out",
    "feature_std": "0: collapsed, 1: all directions alike",
}
LABEL_FREE, TEST = "label_free/", "test/"
LOGARITHMIC = "gradient_norm"
NO_CURVES = {"step", "epoch", "seconds", "total_steps", "seconds_left", "best_eer", "best_value"}


def columns(records: list[Record]) -> Columns:
    """Steps and values of every key that holds numbers, as (steps, values); missing ones are left out."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        step = record["step"]
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key not in NO_CURVES:
                steps, values = found.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return dict(found)


def curve_sections(records: list[Record], best_step: int | None) -> Iterator[Html]:
    """Sections of charts for everything that the records hold; a dotted line marks the best checkpoint."""
    curves = columns(records)
    named = TRAINING | EMBEDDINGS | SPEED
    label_free = {
        key: (metric_title(key), LABEL_FREE_REMARKS.get(key.removeprefix(LABEL_FREE), ""))
        for key in curves
        if key.startswith(LABEL_FREE)
    }
    terms = {
        key: (f"Loss term: {key}", "")
        for key in curves
        if key not in named and key not in METRICS and not key.startswith((LABEL_FREE, TEST))
    }
    yield section("Verification", plots(list(_verification_charts(curves, best_step))))
    for heading, charts, marked in (
        ("Training", {"loss": TRAINING["loss"], **terms, **TRAINING}, None),  # the terms right after the loss
        ("Embeddings", EMBEDDINGS, best_step),
        ("Training utterances, without labels", label_free, best_step),
        ("Speed", SPEED, None),
    ):
        figures = [
            step_chart(
                title,
                {key: curves[key]},
                remark=remark,
                is_logarithmic=key == LOGARITHMIC,
                best_step=marked,
            )
            for key, (title, remark) in charts.items()
            if key in curves
        ]
        yield section(heading, plots(figures))


def _verification_charts(curves: Columns, best_step: int | None) -> Iterator[Html]:
    """A chart per metric with a curve per trial list."""
    charts: dict[str, Columns] = {metric: {} for metric in METRICS}
    for key, curve in curves.items():
        if key in METRICS:
            charts[key]["validation"] = curve
        elif key.startswith(TEST):
            _, name, metric = key.split("/", 2)
            charts.setdefault(metric, {})[name] = curve
    for metric, lists in charts.items():
        if lists:
            remark = "dotted: the best checkpoint" if best_step is not None else ""
            yield step_chart(
                METRICS.get(metric) or metric_title(metric), lists, remark=remark, best_step=best_step
            )
