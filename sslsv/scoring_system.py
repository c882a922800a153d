"""One encoder and all that its scores are made of: kept embeddings, cohort, calibration."""

import numpy as np

from sslsv.config import Config
from sslsv.data.manifest import Manifest, Trials
from sslsv.embeddings import EmbeddingStore, Floats, embed_recordings
from sslsv.evaluation import Scores, Scoring
from sslsv.speaker_encoder import SpeakerEncoder
from sslsv.trial_lists import TrialList, TrialListError, culprits
from sslsv.verification import TrialSet, VerificationError


class ScoringSystem:
    """Turns trials into scores, by any of the scorings asked for.

    `cohort` is the training manifest to draw a cohort from, or None where no scoring needs one.
    """

    def __init__(
        self, encoder: SpeakerEncoder, store: EmbeddingStore, scoring: Scoring, cohort: Manifest | None
    ) -> None:
        self.encoder, self.store, self.scoring = encoder, store, scoring
        self.cohort = None if cohort is None else self._embed_cohort(cohort)

    def scores(self, embeddings: Floats, trials: Trials) -> dict[str, Scores]:
        """Scores (J,) by scoring, the principal one first."""
        return self.scoring.scores(embeddings, trials, self.cohort)

    def embed_list(self, trial_list: TrialList, *, is_lenient: bool) -> tuple[TrialList, Floats]:
        """Embeddings (R, D) of a list's recordings, and the list without those that can't be read.

        Unless `is_lenient`, one that can't be read is a TrialListError that names it and its line.
        """
        embeddings, bad = self.store.get(trial_list.trials.paths)
        if not bad:
            return trial_list, embeddings
        if not is_lenient:
            reasons = " ".join(bad[i] for i in sorted(bad)[:3])
            raise TrialListError(f"{culprits(trial_list, bad, 'cannot be read')}. {reasons}")
        shorter = trial_list.without(bad, "unreadable_recordings")
        row_of = {path: i for i, path in enumerate(trial_list.trials.paths)}
        return shorter, embeddings[[row_of[path] for path in shorter.trials.paths]]

    def validation_scores(self, validation: TrialSet) -> dict[str, Scores]:
        """Scores (J,) of validation trials by scoring; raises VerificationError if a recording is bad."""
        trials = validation.trials
        embeddings, bad = embed_recordings(self.encoder, validation.read, len(trials.paths), self.store.crops)
        if bad:
            raise VerificationError(
                f"{len(bad)} recordings of the validation trials cannot be read, the first: "
                f"{next(iter(bad.values()))} Repair them, or go without calibration (--no-calibration)"
            )
        return self.scores(embeddings, trials)

    def _embed_cohort(self, manifest: Manifest) -> Floats:
        """Cohort (C, D) from a seeded sample of the training utterances that can be read."""
        scoring, rng = self.scoring, np.random.default_rng(self.scoring.seed)
        chosen = np.sort(rng.permutation(len(manifest))[: scoring.num_cohort_utterances])
        embeddings, bad = self.store.get([manifest.paths[i] for i in chosen])
        is_read = np.ones(len(chosen), dtype=bool)
        is_read[list(bad)] = False
        if is_read.sum() < 2:
            raise VerificationError(
                f"{len(bad)} of the {len(chosen)} training utterances for the cohort cannot be read, the "
                f"first: {next(iter(bad.values()), 'none was found')} Give the corpus's folder with --root"
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
