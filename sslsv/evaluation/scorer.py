"""Score trial lists with one encoder, in one or more ways (scorings), and compute metrics with intervals.

Calibrations are fitted to validation trials; score normalisation uses a cohort of training utterances, PLDA
is fitted to training utterances. Nothing is fitted to test trials.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sslsv.config import Config
from sslsv.data.lists import Manifest, Trials
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.embedding import EmbeddingStore
from sslsv.evaluation.intervals import speaker_bootstrap
from sslsv.evaluation.metrics import ErrorCurve, Labels, act_dcf, cllr, dcf_key
from sslsv.evaluation.plda import Plda, fit_plda
from sslsv.evaluation.scoring import Floats, Indices, Kind, Rows, cosine_scores, normalise_scores, unit_rows
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.evaluation.trials import (
    TrialList,
    TrialSet,
    count_shared,
    count_trials,
    listed_trials,
    open_training_side,
    source_of,
    speakers_of,
)
from sslsv.runs.display import LiveLine
from sslsv.runs.folder import RunFolder

P_TARGETS = (0.01, 0.05)  # prior probabilities of a target trial, for the detection costs
# The note on a list whose paths do not name the speakers.
SPEAKERS_UNNAMED = (
    "The paths of {} do not name the speakers: for intervals, recordings that target trials connect count as "
    "one speaker. If a speaker's recordings are in several such groups, intervals are too narrow."
)
CALIBRATED = "_calibrated"  # suffix of the names of calibrated scorings
# More utterances take hours to embed and improve PLDA little. VoxCeleb2 gives 17 for each speaker.
MAX_PLDA_UTTERANCES = 100_000


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Hold the settings of a scoring; cosines, centred if `is_centred`, are always computed as well."""

    norm: Kind | None = None
    cohort_size: int = 1000  # training utterances, used without labels
    top: int = 300  # cohort scores that AS-norm keeps per recording
    is_centred: bool = False  # subtract the cohort's mean embedding first
    replicates: int = 1000  # draws of speakers for the intervals; 0 = no intervals
    is_plda: bool = False  # fit PLDA to training utterances with their speaker labels
    lda_dim: int | None = None  # dimensions that PLDA keeps; None: as many as possible

    @property
    def needs_cohort(self) -> bool:
        """Return whether scores depend on a cohort: training utterances without their labels."""
        return self.norm is not None or self.is_centred

    def num_training(self, manifest: Manifest | None) -> int:
        """Return the number of training utterances that the scores depend on."""
        limit = MAX_PLDA_UTTERANCES if self.is_plda else self.cohort_size
        return 0 if manifest is None else min(len(manifest), limit)


@dataclass(frozen=True)
class Scorer:
    """Score trials with a cohort or a PLDA from training utterances, if the scoring needs one."""

    scoring: Scoring
    cohort: Rows | None = None  # embeddings (C, D)
    plda: Plda | None = None

    @classmethod
    def fit(cls, scoring: Scoring, store: EmbeddingStore, manifest: Manifest | None, root: str) -> "Scorer":
        """Fit the scoring to a seeded sample of `manifest`, if any; raises ValueError if this fails."""
        if manifest is None:
            return cls(scoring)
        order = np.random.default_rng(0).permutation(len(manifest))
        chosen = np.sort(order[: scoring.num_training(manifest)])
        embeddings, bad = store.get([manifest.paths[i] for i in chosen], root)
        cohort = np.delete(embeddings, list(bad), axis=0)
        if len(cohort) < 2:
            raise ValueError(
                f"{len(bad)} of the {len(chosen)} training utterances needed cannot be read, the "
                f"first: {next(iter(bad.values()), 'none was found')} Give their folder with --train-root"
            )
        if not scoring.is_plda:
            return cls(scoring, cohort)
        speakers = np.delete(manifest.speakers[chosen], list(bad))
        return cls(scoring, cohort, fit_plda(cohort, speakers, scoring.lda_dim))

    def scores(self, embeddings: Rows, enrol: Indices, test: Indices) -> dict[str, Floats]:
        """Return scores (J,) of pairs of rows of embeddings (R, D), by scoring; the main scoring is first."""
        name, pairs, cohort = "cosine", (enrol, test), self.cohort
        if self.scoring.is_centred and cohort is not None:
            cohort = unit_rows(cohort)
            mean = cohort.mean(axis=0, keepdims=True)
            embeddings, cohort, name = unit_rows(embeddings) - mean, cohort - mean, "centred_cosine"
        plain = cosine_scores(embeddings, *pairs).astype(np.float64)
        if self.plda is not None:
            return {"plda": self.plda.scores(embeddings, *pairs), name: plain}
        norm = self.scoring.norm
        if norm is None or cohort is None:
            return {name: plain}
        normalised = normalise_scores(norm, plain, embeddings, *pairs, cohort, self.scoring.top)
        return {f"{name}_{norm}_norm": normalised, name: plain}

    def in_words(self, name: str) -> str:
        """Return a scoring's title for reports: `cosine, AS-norm (598 training utterances, top 300)`."""
        base, norm = name.removesuffix(CALIBRATED), self.scoring.norm
        words = "centred cosine" if self.scoring.is_centred else "cosine"
        if base == "plda" and self.plda is not None:
            words = f"PLDA ({len(self.plda.between)} dimensions)"
        elif base.endswith("_norm") and norm is not None and self.cohort is not None:
            size = len(self.cohort)
            top = f", top {min(self.scoring.top, size):,}" if norm == "as" else ""
            words += f", {norm.upper() if 's' in norm else norm}-norm ({size:,} training utterances{top})"
        return words + ", calibrated" * (base != name)


def training_side(
    config: Config, scoring: Scoring, *, is_calibrated: bool
) -> tuple[Manifest | None, TrialSet | None]:
    """Open a run's training utterances and validation trials; each is None if it is not needed."""
    needs_training = scoring.needs_cohort or scoring.is_plda
    if not needs_training and not (is_calibrated and config.evaluation.has_validation_trials):
        return None, None
    validation_list = config.evaluation.validation
    try:
        if not needs_training and validation_list is not None:  # The train lists may be gone.
            return None, listed_trials(config.data.root, validation_list)
        manifest, validation = open_training_side(config)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the run's training data, for calibration, a cohort or PLDA, can't be used: {error} If it has "
            "moved, give its folder with --train-root; --no-calibration needs no validation trials"
        ) from error
    return manifest if needs_training else None, validation if is_calibrated else None


def notes(
    encoder: SpeakerEncoder, scoring: Scoring, lists: Sequence[TrialList], validation: TrialSet | None
) -> list[str]:
    """Return notes on the results, such as which labels were used and for what."""
    sentences, validation_sets = list(encoder.notes), list[tuple[str, Trials]]()  # root folders and trials
    for part in encoder.parts if validation is None else ():
        root, name = part.config.data.root, part.config.evaluation.validation
        if name is not None:
            with contextlib.suppress(ValueError, OSError):  # The list may be gone; it is not needed.
                validation_sets.append((root, listed_trials(root, name).trials))
    if validation is not None:
        validation_sets.append((encoder.config.data.root, validation.trials))
        sentences.append(
            f"Calibrated on {len(validation.trials)} validation trials of {len(validation.trials.paths)} "
            "recordings, without skipped ones: their labels were used for two numbers, scale and offset."
        )
    if scoring.is_plda:
        methods = {part.config.model.name: part.model.needs_labels for part in encoder.parts}
        labelled = [name for name, needs_labels in methods.items() if needs_labels]
        training_note = f"The training itself, by {' and '.join(labelled or methods)}, used "
        training_note += "them too." if labelled else "none. The results are not self-supervised."
        fitted = "PLDA was fitted to the speakers, or clusters, of the training lists."
        sentences.append(f"Labels were used: {fitted} {training_note}")
    if scoring.needs_cohort:
        sentences.append("No labels were used for the cohort: it consists of training utterances.")
    for item in lists:
        sentences += item.trials.notes
        counts = [count_shared(item.trials, item.root, trials, root) for root, trials in validation_sets]
        if shared := max(counts, default=0):
            sentences.append(
                f"{shared} of the {len(item.trials)} trials of {item.name} are validation trials, which "
                "choose checkpoint and calibration: error rates on this list are not test results."
            )
    return sentences


def evaluate(
    encoder: SpeakerEncoder,
    store: EmbeddingStore,
    scorer: Scorer,
    lists: Sequence[TrialList],
    validation: TrialSet | None,
    *,
    is_lenient: bool,
) -> tuple[list[TrialList], dict[str, Calibration]]:
    """Return every list with its scores and metrics, and the calibrations by name of the scoring.

    Unreadable recordings raise ValueError; if `is_lenient`, their trials are left out and counted instead.
    """
    calibrations, left_out = dict[str, Calibration](), dict[str, int]()
    if validation is not None:
        trials = validation.trials
        if validation.is_simulated:
            embeddings, bad = encoder.embedder().embed_recordings(validation.read, len(trials.paths))
        else:
            embeddings, bad = store.get(trials.paths, encoder.config.data.root)
        is_kept = ~np.isin([trials.enrol, trials.test], list(bad)).any(axis=0)
        if bad and not (is_lenient and len(np.unique(trials.targets[is_kept])) == 2):
            raise ValueError(
                f"{len(bad)} recordings of the validation trials cannot be read, the first: "
                f"{next(iter(bad.values()))} Repair them, leave their trials out with --allow-missing, "
                "if others remain, or give --no-calibration"
            )
        if bad:
            left_out["unreadable_validation_recordings"] = len(bad)
            left_out["skipped_validation_trials"] = int((~is_kept).sum())
        scores = scorer.scores(embeddings, trials.enrol[is_kept], trials.test[is_kept])
        targets = trials.targets[is_kept]
        calibrations = {name: fit_calibration(values, targets) for name, values in scores.items()}
    scored = []
    for item in lists:
        embeddings, bad = store.get(item.trials.paths, item.root)
        if bad and not is_lenient:
            raise item.refusal(bad, f"cannot be read ({next(iter(bad.values()))})")
        if bad:
            item = item.without(bad, "unreadable_recordings")
            embeddings, _ = store.get(item.trials.paths, item.root)
        with LiveLine(f"measuring {item.name}, intervals by {scorer.scoring.replicates:,} draws of speakers"):
            item = replace(item, left_out=item.left_out | left_out)
            scored.append(measure(item, scorer, calibrations, embeddings))
    return scored, calibrations


def measure(
    item: TrialList, scorer: Scorer, calibrations: Mapping[str, Calibration], embeddings: Rows
) -> TrialList:
    """Return the list with its scores, calibrated scores (not for a calibration of scale 0) and metrics."""
    trials, targets, replicates = item.trials, item.trials.targets, scorer.scoring.replicates
    speakers, scores = speakers_of(trials), scorer.scores(embeddings, trials.enrol, trials.test)
    calibrated = {
        f"{name}{CALIBRATED}": each.apply(scores[name]) for name, each in calibrations.items() if each.scale
    }
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for name, values in (scores | calibrated).items():
        table = tables[name] = _metrics_of(values, targets, is_calibrated=name in calibrated)
        if replicates:
            sides = speakers[trials.enrol], speakers[trials.test]
            intervals = speaker_bootstrap(values, targets, *sides, p_targets=P_TARGETS, replicates=replicates)
            for metric in table:
                table[metric] |= intervals[metric]._asdict()
    counts = count_trials(trials) | {"speakers": int(speakers.max()) + 1} | item.left_out
    titles = {name: scorer.in_words(name) for name in tables}
    summary = {**source_of(item.file), "counts": counts, "scorings": tables, "titles": titles}
    return replace(item, scores=scores | calibrated, summary=summary)


def _metrics_of(scores: Floats, targets: Labels, *, is_calibrated: bool) -> dict[str, dict[str, float]]:
    curve = ErrorCurve.of(scores, targets)
    table = {
        "eer": {"value": curve.eer(), "threshold": curve.eer_threshold()},
        "min_cllr": {"value": curve.min_cllr()},
    }
    for p in P_TARGETS:
        table[dcf_key("min", p)] = {"value": curve.min_dcf(p), "threshold": curve.min_dcf_threshold(p)}
    # The Cllr of uncalibrated scores is reported for comparison only.
    table["cllr"] = {"value": cllr(scores, targets)}
    if is_calibrated:
        table |= {dcf_key("act", p): {"value": act_dcf(scores, targets, p)} for p in P_TARGETS}
    return table


def write_results(out: RunFolder, evaluation: dict[str, Any], lists: Sequence[TrialList]) -> None:
    """Write evaluation.json and the scores to the folder `out`, replacing an earlier evaluation.

    A score file can be read as a trial list: `1|0 enrol test` and a column per scoring, named in line 1.
    """
    if out.has("evaluation.json"):  # Otherwise the files may belong to something else and are kept.
        out.delete_folder("scores")
    for item in lists:
        trials, rows = item.trials, [["#target", "enrolment", "test", *item.scores]]
        columns = trials.targets.astype(int), trials.enrol, trials.test, *item.scores.values()
        for target, enrol, test, *scores in zip(*columns, strict=True):
            numbers = [f"{score:.6f}" for score in scores]
            rows.append([str(target), trials.paths[enrol], trials.paths[test], *numbers])
        out.write(f"scores/{item.name}.txt", "".join("\t".join(row) + "\n" for row in rows).encode())
    out.write_json("evaluation.json", evaluation)


def save_calibration(encoder: SpeakerEncoder, calibration: Calibration) -> None:
    """Add a calibration of cosines to the folder of the weights, where `verify` finds it; raises OSError."""
    folder = RunFolder.at(encoder.run)
    calibrations: dict[str, Any] = folder.read_json(CALIBRATION_FILE) if folder.has(CALIBRATION_FILE) else {}
    calibrations[encoder.identity] = {"calibration": asdict(calibration), **encoder.describe()}
    folder.write_json(CALIBRATION_FILE, calibrations)
