"""Score trial lists: cosine, normalised, calibrated; every metric with its parameters and its interval.

Validation trials and the cohort are the only things that anything is fitted to; test trials are only counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sslsv.data.lists import Trials
from sslsv.evaluation.cost_intervals import cost_bootstrap
from sslsv.evaluation.intervals import Interval, speaker_bootstrap, speakers_from_trials
from sslsv.evaluation.metrics import ErrorCurve, act_dcf, act_dcf_key, cllr, min_dcf_key
from sslsv.evaluation.score_norm import cluster_cohort, normalise_scores, speaker_cohort
from sslsv.evaluation.scored_list import ScoredList
from sslsv.evaluation.scoring import cosine_scores, dot_scores, unit_rows

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Table = dict[str, dict[str, float]]

P_TARGETS = (0.01, 0.05)
CALIBRATED = "_calibrated"
ENDS = ("low", "high")  # of an interval


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How trials are scored, beyond the cosine that is always there."""

    norm: Literal["z", "t", "s", "as"] | None = None
    cohort: Literal["utterances", "clusters", "speakers"] = "utterances"  # speakers: uses training labels
    cohort_size: int = 1000  # utterances or clusters
    top: int = 300  # cohort scores that AS-norm keeps per recording
    ddof: Literal[0, 1] = 0  # 0: population deviation, 1: sample deviation
    is_centred: bool = False  # subtract the cohort's mean embedding first
    is_mean_of_crops: bool = False  # embeddings are means of unit vectors: dot product, unless centred
    replicates: int = 1000  # of the bootstrap over speakers; 0 = no intervals
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm is not None and self.is_mean_of_crops:
            raise ValueError(
                f"{self.norm}-norm is asked for together with crops; its cohort statistics are of cosines, "
                "while a score of crops is a mean of cosines: leave out --norm or --crops"
            )
        if self.replicates < 0 or self.cohort_size < 2 or self.top < 2:
            raise ValueError(
                f"replicates {self.replicates}, cohort size {self.cohort_size} and top {self.top} can't be: "
                "replicates must be 0 or more, the other two 2 or more"
            )

    @property
    def needs_cohort(self) -> bool:
        """Whether embeddings of training utterances are needed."""
        return self.norm is not None or self.is_centred

    @property
    def num_cohort_utterances(self) -> int:
        """Training utterances to embed for the cohort; clusters and speakers need several each."""
        return self.cohort_size if self.cohort == "utterances" else 20 * self.cohort_size

    def cohort_of(self, embeddings: Floats, speakers: npt.NDArray[np.int64]) -> Floats:
        """Cohort (C, D) from embeddings of training utterances (N, D)."""
        if self.cohort == "clusters":
            return cluster_cohort(embeddings, self.cohort_size, self.seed)
        return speaker_cohort(embeddings, speakers) if self.cohort == "speakers" else embeddings

    def scores(self, embeddings: Floats, trials: Trials, cohort: Floats | None) -> dict[str, Scores]:
        """Scores (J,) by the name of the scoring, the principal one first."""
        name = "cosine"
        if self.is_centred and cohort is not None:
            # Both in the same unit: clusters and speakers are means of unit vectors already.
            cohort = unit_rows(cohort) if self.cohort == "utterances" else cohort
            mean = cohort.mean(axis=0, keepdims=True)
            embeddings, cohort, name = unit_rows(embeddings) - mean, cohort - mean, "centred_cosine"
        is_dot_product = self.is_mean_of_crops and not self.is_centred
        plain = (dot_scores if is_dot_product else cosine_scores)(embeddings, trials.enrol, trials.test)
        name = f"mean_crop_{name}" if self.is_mean_of_crops else name
        result = {name: plain.astype(np.float64)}
        if self.norm is not None and cohort is not None:
            top = f",top={min(self.top, len(cohort))}" if self.norm == "as" else ""
            full = f"{name}_{self.norm}_norm(cohort={self.cohort},size={len(cohort)}{top},ddof={self.ddof})"
            normalised = normalise_scores(
                self.norm,
                result[name],
                embeddings,
                trials.enrol,
                trials.test,
                cohort,
                top=self.top if self.norm == "as" else None,
                ddof=self.ddof,
            )
            result = {full: np.asarray(normalised, dtype=np.float64), **result}
        return result


def evaluate_list(
    name: str,
    trials: Trials,
    embeddings: Floats,
    scores: dict[str, Scores],
    llrs: dict[str, Scores],
    options: Scoring,
    summary: dict[str, Any],
) -> ScoredList:
    """Metrics of every scoring of a list; `summary` (file, checksum, counts) is completed in the result.

    `llrs` are calibrated scores, of scorings in `scores` or of others: `<scoring>_calibrated` in the result,
    where those of others, a fusion, come first.
    """
    speakers = speakers_from_trials(len(trials.paths), trials.enrol, trials.test, trials.targets)
    everything = {f"{name}{CALIBRATED}": llrs[name] for name in llrs if name not in scores} | scores
    tables: dict[str, Table] = {}
    for scoring, values in scores.items():
        table = metric_table(values, trials.targets)
        add_intervals(table, speaker_bootstrap, values, trials, speakers, options)
        # Of scores taken for what they are not yet: to be compared with the value after calibration.
        table["cllr"] = {"value": cllr(values, trials.targets)}
        add_intervals(table, cost_bootstrap, values, trials, speakers, options)
        tables[scoring] = table
    for scoring, values in llrs.items():
        table = metric_table(values, trials.targets)
        if scoring in scores and np.ptp(values):  # a rising map of scores whose intervals are known
            for metric, found in table.items():
                found |= {end: value for end, value in tables[scoring][metric].items() if end in ENDS}
        else:
            add_intervals(table, speaker_bootstrap, values, trials, speakers, options)
        table |= information(values, trials.targets)
        add_intervals(table, cost_bootstrap, values, trials, speakers, options)
        tables[f"{scoring}{CALIBRATED}"] = table
        everything[f"{scoring}{CALIBRATED}"] = values
    counts = {
        "trials": len(trials),
        "targets": int(trials.targets.sum()),
        "nontargets": int((~trials.targets).sum()),
        "recordings": len(trials.paths),
        "speakers": int(speakers.max()) + 1,
    }
    tables = {name: tables[name] for name in everything}
    summary = {**summary, "counts": {**counts, **summary.get("counts", {})}, "scorings": tables}
    return ScoredList(
        name=name, trials=trials, speakers=speakers, embeddings=embeddings, scores=everything, summary=summary
    )


def add_intervals(
    table: Table,
    bootstrap: Callable[..., dict[str, Interval]],
    scores: Scores,
    trials: Trials,
    speakers: npt.NDArray[np.int64],
    options: Scoring,
) -> None:
    """Put `low` and `high` into the metrics of a table that a bootstrap over speakers gives."""
    if not options.replicates:
        return
    intervals = bootstrap(
        scores,
        trials.targets,
        speakers[trials.enrol],
        speakers[trials.test],
        p_targets=P_TARGETS,
        replicates=options.replicates,
        seed=options.seed,
    )
    for metric in table.keys() & intervals.keys():
        table[metric] |= {"low": intervals[metric].low, "high": intervals[metric].high}


def metric_table(scores: Scores, targets: npt.NDArray[np.bool_]) -> Table:
    """Metrics that any strictly increasing map of the scores leaves alone, on one sort."""
    curve = ErrorCurve.of(scores, targets)
    table = {
        "eer": {"value": curve.eer(), "threshold": curve.eer_threshold()},
        "eer_convex_hull": {"value": curve.eer_convex_hull()},
        "min_cllr": {"value": curve.min_cllr()},
    }
    for p_target in P_TARGETS:
        table[min_dcf_key(p_target)] = {
            "value": curve.min_dcf(p_target),
            "threshold": curve.min_dcf_threshold(p_target),
        }
    return table


def information(llrs: Scores, targets: npt.NDArray[np.bool_]) -> Table:
    """Metrics of scores that claim to be log-likelihood ratios."""
    costs = {act_dcf_key(p): {"value": act_dcf(llrs, targets, p)} for p in P_TARGETS}
    return {"cllr": {"value": cllr(llrs, targets)}, **costs}
