"""Where the errors of scored trials come from: which speakers, which trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sslsv.evaluation.metrics import Counts, Floats, Labels
from sslsv.evaluation.trials import ScoredList


@dataclass(frozen=True, kw_only=True)
class SpeakerErrors:
    """Count the errors of each speaker at one threshold; a nontarget trial counts for both speakers."""

    recordings: Counts  # (S,), as all that follow
    targets: Counts  # trials
    misses: Counts
    nontargets: Counts  # trials
    false_alarms: Counts

    @classmethod
    def of(cls, scored: ScoredList, scores: ArrayLike, threshold: float) -> "SpeakerErrors":
        """Count errors when trials are accepted at scores (J,) of at least the threshold."""
        targets, is_accepted = scored.trials.targets, np.asarray(scores) >= threshold
        size = int(scored.speakers.max(initial=-1)) + 1
        first, second = scored.speakers[scored.trials.enrol], scored.speakers[scored.trials.test]

        def count(*speakers: NDArray[np.int64]) -> Counts:
            return np.bincount(np.concatenate(speakers), minlength=size)

        return cls(
            recordings=count(scored.speakers),
            targets=count(first[targets]),
            misses=count(first[targets & ~is_accepted]),
            nontargets=count(first[~targets], second[~targets]),
            false_alarms=count(first[~targets & is_accepted], second[~targets & is_accepted]),
        )

    @property
    def miss_rates(self) -> Floats:
        """Return the share of a speaker's target trials that are rejected (S,); NaN without any."""
        return np.where(self.targets > 0, self.misses / np.maximum(self.targets, 1), np.nan)

    @property
    def false_alarm_rates(self) -> Floats:
        """Return the share of a speaker's nontarget trials that are accepted (S,); NaN without any."""
        return np.where(self.nontargets > 0, self.false_alarms / np.maximum(self.nontargets, 1), np.nan)

    def worst(self, count: int) -> Counts:
        """Return the speakers that add most to the error rates beyond an average speaker, the worst first.

        An average speaker has as many trials; a rate over few trials weighs little.
        """
        excess = np.zeros(len(self.recordings))
        for errors, trials in ((self.misses, self.targets), (self.false_alarms, self.nontargets)):
            total = max(int(trials.sum()), 1)
            excess += (errors - errors.sum() / total * trials) / total
        order = np.argsort(-excess, kind="stable")[:count]
        return order[excess[order] > 0]


def hardest_trials(scores: ArrayLike, targets: Labels, count: int) -> tuple[Counts, Counts]:
    """Return the indices of the lowest target trials and of the highest nontarget trials, hardest first."""
    values, same, different = np.asarray(scores), np.flatnonzero(targets), np.flatnonzero(~targets)
    lowest = np.argsort(values[same], kind="stable")[:count]
    highest = np.argsort(-values[different], kind="stable")[:count]
    return same[lowest], different[highest]


def speaker_names(paths: Sequence[str], speakers: NDArray[np.int64]) -> list[str]:
    """Name each speaker (S,) by the folder that all of its recordings share and no other speaker's do.

    Folders are looked for at one depth, the one that names most speakers; the others are `speaker 12`.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    found: dict[int, str] = {}
    for depth in range(max(map(len, folders), default=0)):
        pairs = {(s, parts[depth : depth + 1]) for s, parts in zip(speakers.tolist(), folders, strict=True)}
        folders_of, speakers_of = (Counter(pair[side] for pair in pairs) for side in (0, 1))
        unique = {s: parts[0] for s, parts in pairs if parts and folders_of[s] == speakers_of[parts] == 1}
        found = unique if len(unique) > len(found) else found
    return [found.get(speaker, f"speaker {speaker}") for speaker in range(int(speakers.max(initial=-1)) + 1)]
