"""Scores and errors of trial lists: one encoder's scorings of a list, their metrics with intervals.

Validation trials and the cohort are the only things that anything is fitted to; test trials are only counted.
"""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sslsv.data.lists import Manifest, Trials
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.embedding import Crops, EmbeddingStore, embed_recordings
from sslsv.evaluation.intervals import speaker_bootstrap, speakers_from_trials
from sslsv.evaluation.metrics import ErrorCurve, act_dcf, act_dcf_key, cllr, min_dcf_key
from sslsv.evaluation.scoring import (
    Kind,
    cosine_scores,
    dot_scores,
    normalise_scores,
    speaker_cohort,
    unit_rows,
)
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.evaluation.trials import (
    ScoredList,
    TrialList,
    TrialSet,
    count_shared,
    count_trials,
    culprits,
    listed_trials,
    open_training_side,
)
from sslsv.runs.folder import RunFolder

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Table = dict[str, dict[str, float]]

P_TARGETS = (0.01, 0.05)
CALIBRATED = "_calibrated"
COHORTS = {
    "utterances": "No labels were used: the cohort is training utterances as they are.",
    "speakers": "Labels were used: the cohort is means of training speakers, so no result is free of labels.",
}


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Say how trials are scored, beyond the cosine that is always there."""

    norm: Kind | None = None
    cohort: Literal["utterances", "speakers"] = "utterances"  # speakers: uses training labels
    cohort_size: int = 1000  # utterances, or a twentieth of those that speakers are averaged over
    top: int = 300  # cohort scores that AS-norm keeps per recording
    is_centred: bool = False  # subtract the cohort's mean embedding first
    crops: Crops | None = None  # embeddings are means of crops' unit vectors: dot product, unless centred
    replicates: int = 1000  # draws of speakers for the intervals; 0 = no intervals

    def __post_init__(self) -> None:
        if self.norm is not None and self.crops is not None:
            raise ValueError(
                f"{self.norm}-norm is asked for together with crops; its cohort statistics are of cosines, "
                "while a score of crops is a mean of cosines: leave out --norm or --crops"
            )

    @property
    def num_cohort_utterances(self) -> int:
        """Return how many training utterances a cohort needs; speakers need several each."""
        if self.norm is None and not self.is_centred:
            return 0
        return self.cohort_size if self.cohort == "utterances" else 20 * self.cohort_size

    def cohort_of(self, embeddings: Floats, speakers: npt.NDArray[np.int64]) -> Floats:
        """Make the cohort (C, D) from embeddings of training utterances (N, D)."""
        return speaker_cohort(embeddings, speakers) if self.cohort == "speakers" else embeddings

    def scores(self, embeddings: Floats, trials: Trials, cohort: Floats | None) -> dict[str, Scores]:
        """Return scores (J,) by the name of the scoring, the principal one first."""
        name, pairs = "cosine", (trials.enrol, trials.test)
        if self.is_centred and cohort is not None:
            # Speakers are means of unit vectors already, so utterances get the same unit.
            cohort = unit_rows(cohort) if self.cohort == "utterances" else cohort
            mean = cohort.mean(axis=0, keepdims=True)
            embeddings, cohort, name = unit_rows(embeddings) - mean, cohort - mean, "centred_cosine"
        is_dot_product = self.crops is not None and not self.is_centred
        plain = (dot_scores if is_dot_product else cosine_scores)(embeddings, *pairs).astype(np.float64)
        name = name if self.crops is None else f"mean_crop_{name}"
        if self.norm is None or cohort is None:
            return {name: plain}
        top = f",top={min(self.top, len(cohort))}" if self.norm == "as" else ""
        full = f"{name}_{self.norm}_norm(cohort={self.cohort},size={len(cohort)}{top})"
        return {full: normalise_scores(self.norm, plain, embeddings, *pairs, cohort, self.top), name: plain}


@dataclass(frozen=True)
class Outcome:
    """Hold all scores of one encoder: (J,) by scoring, the principal one first."""

    validation: dict[str, Scores]  # empty without validation trials
    lists: list[TrialList]  # with the trials that can be scored
    scores: list[dict[str, Scores]]  # of each list


def training_side(
    encoders: Sequence[SpeakerEncoder], *, needs_cohort: bool, needs_validation: bool
) -> tuple[Manifest | None, TrialSet | None]:
    """Open the first run's training utterances and validation trials, each None where it is not needed.

    Raises ValueError where another run trained on recordings of these trials: a fusion would be fitted to
    speakers that its encoder has learnt from.
    """
    if not needs_cohort and not needs_validation:
        return None, None
    try:
        (manifest, validation), *others = [open_training_side(encoder.config) for encoder in encoders]
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the run's training data, for calibration or a cohort, can't be used: {error} If it has moved, "
            "give its folder with --train-root; --no-calibration does without validation trials"
        ) from error
    for encoder, (_, other) in zip(encoders[1:], others, strict=True):
        if validation is None or other is None or _pairs(validation.trials) != _pairs(other.trials):
            raise ValueError(
                f"{encoder.run} and {encoders[0].run} do not have the same validation trials (as by their "
                "settings held_out_speakers, seed and validation); a fusion is fitted to trials that no run "
                "has trained on"
            )
    return manifest if needs_cohort else None, validation if needs_validation else None


def _pairs(trials: Trials) -> tuple[list[str], list[Any]]:
    return trials.paths, [array.tolist() for array in (trials.versions, trials.enrol, trials.test)]


def notes(
    encoders: Sequence[SpeakerEncoder],
    scoring: Scoring,
    lists: Sequence[TrialList],
    validation: TrialSet | None,
    *,
    is_calibrated: bool,
) -> list[str]:
    """Return sentences that a reader of the results needs: which labels were used, and for what."""
    config = encoders[0].config
    found = [note for encoder in encoders for note in encoder.notes]
    if validation is not None and is_calibrated:
        found.append(
            f"Calibrated on {len(validation.trials)} validation trials of {len(validation.trials.paths)} "
            "recordings: their labels were used for two numbers, scale and offset."
        )
    if scoring.num_cohort_utterances:
        found.append(COHORTS[scoring.cohort])
    if validation is None and config.evaluation.validation is not None:
        with contextlib.suppress(ValueError, OSError):  # it is not needed here, and may be gone
            validation = listed_trials(config.data.root, config.evaluation.validation)
    for item in lists:
        shared = validation and count_shared(item.trials, item.root, validation.trials, config.data.root)
        if shared:
            found.append(
                f"{shared} of the {len(item.trials)} trials of {item.name} are validation trials, which "
                "choose checkpoint and calibration: its errors are no test results."
            )
    return found


def score(
    encoder: SpeakerEncoder,
    store: EmbeddingStore,
    scoring: Scoring,
    manifest: Manifest | None,
    validation: TrialSet | None,
    lists: Sequence[TrialList],
    *,
    is_lenient: bool,
) -> Outcome:
    """Score validation trials and lists by one encoder.

    The cohort is a seeded sample of the training `manifest`, if any. If `is_lenient`, lists lose the
    recordings that can't be read. Raises ValueError for such recordings elsewhere: in lists otherwise, in
    validation trials, and where fewer than two of the cohort are left.
    """
    root, cohort, outcome = encoder.config.data.root, None, Outcome({}, [], [])
    if manifest is not None:
        order = np.random.default_rng(0).permutation(len(manifest))
        chosen = np.sort(order[: scoring.num_cohort_utterances])
        embeddings, bad = store.get([manifest.paths[i] for i in chosen], root)
        good = [i for i in range(len(chosen)) if i not in bad]
        if len(good) < 2:
            raise ValueError(
                f"{len(bad)} of the {len(chosen)} training utterances for the cohort cannot be read, the "
                f"first: {next(iter(bad.values()), 'none was found')} Give their folder with --train-root"
            )
        cohort = scoring.cohort_of(embeddings[good], manifest.speakers[chosen][good])
    if validation is not None:
        paths = validation.trials.paths
        if validation.is_simulated:
            embeddings, bad = embed_recordings(encoder, validation.read, len(paths), scoring.crops)
        else:
            embeddings, bad = store.get(paths, root)
        if bad:
            raise ValueError(
                f"{len(bad)} recordings of the validation trials cannot be read, the first: "
                f"{next(iter(bad.values()))} Repair them, or give --no-calibration"
            )
        outcome.validation.update(scoring.scores(embeddings, validation.trials, cohort))
    for item in lists:
        embeddings, bad = store.get(item.trials.paths, item.root)
        if bad and not is_lenient:
            reasons = " ".join(bad[i] for i in sorted(bad)[:3])
            raise ValueError(f"{culprits(item, bad, 'cannot be read')}. {reasons}")
        if bad:
            row_of = {path: i for i, path in enumerate(item.trials.paths)}
            item = item.without(bad, "unreadable_recordings")
            embeddings = embeddings[[row_of[path] for path in item.trials.paths]]
        outcome.lists.append(item)
        outcome.scores.append(scoring.scores(embeddings, item.trials, cohort))
    return outcome


def measure(
    outcomes: Sequence[Outcome], validation: TrialSet | None, scoring: Scoring, *, is_calibrated: bool
) -> tuple[list[ScoredList], Calibration | None]:
    """Count the errors of every list, raw, calibrated and fused; the calibration of cosines is returned too.

    Calibrated are the first encoder's scorings; fused are the principal scores of all encoders.
    """
    calibrations: dict[str, Calibration] = {}
    fusion: Calibration | None = None
    if validation is not None:
        each, targets = [outcome.validation for outcome in outcomes], validation.trials.targets
        wanted = each[0] if is_calibrated else {}
        calibrations = {name: fit_calibration(values, targets) for name, values in wanted.items()}
        fusion = fit_calibration(_principal(each), targets) if len(each) > 1 else None
    lists = []
    for item, scores in zip(
        outcomes[-1].lists, zip(*[one.scores for one in outcomes], strict=True), strict=True
    ):
        llrs = {name: calibration.apply(scores[0][name]) for name, calibration in calibrations.items()}
        if fusion is not None:
            llrs["fused"] = fusion.apply(_principal(scores))
        lists.append(evaluate_list(item, scores[0], llrs, scoring.replicates))
    return lists, calibrations.get("cosine")


def _principal(scores: Sequence[Mapping[str, Scores]]) -> Scores:
    return np.stack([next(iter(one.values())) for one in scores])


def evaluate_list(
    item: TrialList, scores: dict[str, Scores], llrs: dict[str, Scores], replicates: int
) -> ScoredList:
    """Measure every scoring of a list.

    `llrs` are calibrated scores, of scorings in `scores` or of others: `<scoring>_calibrated` in the result,
    where those of others, a fusion, come first.
    """
    trials = item.trials
    speakers, _ = speakers_from_trials(len(trials.paths), trials.enrol, trials.test, trials.targets)
    calibrated = {f"{key}{CALIBRATED}": values for key, values in llrs.items()}
    fused = {f"{key}{CALIBRATED}": values for key, values in llrs.items() if key not in scores}
    everything, tables = fused | scores | calibrated, dict[str, Table]()
    sides = speakers[trials.enrol], speakers[trials.test]
    for key, values in everything.items():
        table = tables[key] = _metrics_of(values, trials.targets, has_ratios=key in calibrated)
        if replicates:
            found = speaker_bootstrap(
                values, trials.targets, *sides, p_targets=P_TARGETS, replicates=replicates
            )
            for metric in table:
                table[metric] |= found[metric]._asdict()
    counts = count_trials(trials) | {"speakers": int(speakers.max()) + 1} | item.odd
    summary = {**item.source(), "counts": counts, "scorings": tables}
    return ScoredList(name=item.name, trials=trials, scores=everything, summary=summary)


def _metrics_of(scores: Scores, targets: npt.NDArray[np.bool_], *, has_ratios: bool) -> Table:
    # The Cllr of scores that are no ratios yet is there for comparison.
    curve = ErrorCurve.of(scores, targets)
    table = {
        "eer": {"value": curve.eer(), "threshold": curve.eer_threshold()},
        "eer_convex_hull": {"value": curve.eer_convex_hull()},
        "min_cllr": {"value": curve.min_cllr()},
    }
    for p in P_TARGETS:
        table[min_dcf_key(p)] = {"value": curve.min_dcf(p), "threshold": curve.min_dcf_threshold(p)}
    table["cllr"] = {"value": cllr(scores, targets)}
    if has_ratios:
        table |= {act_dcf_key(p): {"value": act_dcf(scores, targets, p)} for p in P_TARGETS}
    return table


def write_results(out: RunFolder, evaluation: dict[str, Any], lists: Sequence[ScoredList]) -> None:
    """Write evaluation.json and scores into the folder `out`, in place of an earlier evaluation.

    A file of scores is the list again, `1|0 enrol test`, with a column per scoring, named by the first line.
    """
    if out.has("evaluation.json"):  # Without it the folder may be anyone's, and nothing in it is deleted.
        out.delete_folder("scores")
    for item in lists:
        trials, text = item.trials, io.StringIO()
        text.write(" ".join(["#target", "enrolment", "test", *item.scores]) + "\n")
        for j, target in enumerate(trials.targets.tolist()):
            numbers = " ".join(f"{values[j]:.6f}" for values in item.scores.values())
            pair = f"{trials.paths[trials.enrol[j]]} {trials.paths[trials.test[j]]}"
            text.write(f"{int(target)} {pair} {numbers}\n")
        out.write(f"scores/{item.name}.txt", text.getvalue().encode(errors="surrogateescape"))
    out.write_json("evaluation.json", evaluation)


def keep_calibration(encoder: SpeakerEncoder, calibration: Calibration) -> None:
    """Add a calibration of cosines to the weights' folder, where `verify` finds it; OSError."""
    folder = RunFolder.at(encoder.run)
    known: dict[str, Any] = folder.read_json(CALIBRATION_FILE) if folder.has(CALIBRATION_FILE) else {}
    known[encoder.identity] = {"calibration": dataclasses.asdict(calibration), **encoder.describe()}
    folder.write_json(CALIBRATION_FILE, known)
