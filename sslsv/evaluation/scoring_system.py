"""One encoder and all that its scores are made of: kept embeddings, cohort, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslsv.config import Config
from sslsv.data.lists import Manifest
from sslsv.evaluation.embeddings import EmbeddingStore, Floats, embed_recordings
from sslsv.evaluation.evaluation import Scores, Scoring
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.evaluation.trial_lists import TrialList, TrialListError, culprits
from sslsv.evaluation.verification import TrialSet, VerificationError


@dataclass(frozen=True)
class Outcome:
    """All that one encoder says: scores (J,) by scoring, the principal one first."""

    validation: dict[str, Scores]  # empty without validation trials
    lists: list[tuple[TrialList, Floats, dict[str, Scores]]]  # what can be scored, and its embeddings (R, D)


class ScoringSystem:
    """Turns trials into scores, by any of the scorings asked for.

    `cohort` is the training manifest to draw a cohort from, or None where no scoring needs one.
    """

    def __init__(
        self, encoder: SpeakerEncoder, store: EmbeddingStore, scoring: Scoring, cohort: Manifest | None
    ) -> None:
        self.encoder, self.store, self.scoring = encoder, store, scoring
        self.cohort = None if cohort is None else self._embed_cohort(cohort)

    def outcome(
        self, validation: TrialSet | None, lists: Sequence[TrialList], *, is_lenient: bool
    ) -> Outcome:
        """Score validation trials and lists, which lose the recordings that can't be read.

        Raises TrialListError for such recordings unless `is_lenient`, VerificationError for those of
        validation trials.
        """
        found = self._validation_scores(validation) if validation is not None else {}
        return Outcome(found, [self._score_list(item, is_lenient) for item in lists])

    def _score_list(self, item: TrialList, is_lenient: bool) -> tuple[TrialList, Floats, dict[str, Scores]]:
        embeddings, bad = self.store.get(item.trials.paths, item.root)
        if bad and not is_lenient:
            reasons = " ".join(bad[i] for i in sorted(bad)[:3])
            raise TrialListError(f"{culprits(item, bad, 'cannot be read')}. {reasons}")
        if bad:
            row_of = {path: i for i, path in enumerate(item.trials.paths)}
            item = item.without(bad, "unreadable_recordings")
            embeddings = embeddings[[row_of[path] for path in item.trials.paths]]
        return item, embeddings, self.scoring.scores(embeddings, item.trials, self.cohort)

    def _validation_scores(self, validation: TrialSet) -> dict[str, Scores]:
        trials = validation.trials
        if validation.is_simulated:
            found = embed_recordings(self.encoder, validation.read, len(trials.paths), self.store.crops)
        else:
            found = self.store.get(trials.paths, self.encoder.config.data.root)
        embeddings, bad = found
        if bad:
            raise VerificationError(
                f"{len(bad)} recordings of the validation trials cannot be read, the first: "
                f"{next(iter(bad.values()))} Repair them, or go without calibration (--no-calibration)"
            )
        return self.scoring.scores(embeddings, trials, self.cohort)

    def _embed_cohort(self, manifest: Manifest) -> Floats:
        """Cohort (C, D) from a seeded sample of the training utterances that can be read."""
        scoring, rng = self.scoring, np.random.default_rng(self.scoring.seed)
        chosen = np.sort(rng.permutation(len(manifest))[: scoring.num_cohort_utterances])
        embeddings, bad = self.store.get([manifest.paths[i] for i in chosen], self.encoder.config.data.root)
        is_read = np.ones(len(chosen), dtype=bool)
        is_read[list(bad)] = False
        if is_read.sum() < 2:
            raise VerificationError(
                f"{len(bad)} of the {len(chosen)} training utterances for the cohort cannot be read, the "
                f"first: {next(iter(bad.values()), 'none was found')} Give their folder with --train-root"
            )
        return scoring.cohort_of(embeddings[is_read], manifest.speakers[chosen][is_read])


def check_same_validation(first: TrialSet, other: TrialSet | None, config: Config, location: str) -> None:
    """Raise ValueError unless another run leaves the same recordings out of its training.

    Else the fusion would be fitted to speakers that the other encoder has learnt from.
    """
    is_same = (
        other is not None
        and other.trials.paths == first.trials.paths
        and np.array_equal(other.trials.versions, first.trials.versions)
        and np.array_equal(other.trials.enrol, first.trials.enrol)
        and np.array_equal(other.trials.test, first.trials.test)
    )
    if not is_same:
        raise ValueError(
            f"{location} was trained with other validation trials ({config.evaluation.validation or ''} "
            f"held_out_speakers {config.evaluation.held_out_speakers}, seed {config.seed}) than the first "
            "run; a fusion is fitted to trials that no run has trained on"
        )
