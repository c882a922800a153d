"""Where the errors of scored trials come from: which speakers, which trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sslsv.evaluation.scored_list import ScoredList

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpeakerErrors:
    """Errors of each speaker at one threshold; a nontarget trial counts for both of its speakers."""

    recordings: Counts  # (S,)
    targets: Counts  # (S,) trials
    misses: Counts  # (S,) of them
    nontargets: Counts  # (S,) trials
    false_alarms: Counts  # (S,) of them

    @classmethod
    def of(cls, scored: ScoredList, scores: ArrayLike, threshold: float) -> "SpeakerErrors":
        """Errors when trials are accepted at scores (J,) of at least the threshold."""
        trials, is_accepted = scored.trials, np.asarray(scores) >= threshold
        size = int(scored.speakers.max(initial=-1)) + 1
        first, second = scored.speakers[trials.enrol], scored.speakers[trials.test]

        def count(speakers: NDArray[np.int64]) -> Counts:
            return np.bincount(speakers, minlength=size)

        is_false_alarm = is_accepted & ~trials.targets
        return cls(
            recordings=count(scored.speakers),
            targets=count(first[trials.targets]),
            misses=count(first[trials.targets & ~is_accepted]),
            nontargets=count(first[~trials.targets]) + count(second[~trials.targets]),
            false_alarms=count(first[is_false_alarm]) + count(second[is_false_alarm]),
        )

    @property
    def miss_rates(self) -> Floats:
        """Share of a speaker's target trials that are rejected (S,); NaN without such trials."""
        return _rates(self.misses, self.targets)

    @property
    def false_alarm_rates(self) -> Floats:
        """Share of a speaker's nontarget trials that are accepted (S,); NaN without such trials."""
        return _rates(self.false_alarms, self.nontargets)

    @property
    def excess(self) -> Floats:
        """What a speaker adds to miss rate plus false-alarm rate, beyond an average one with as many trials.

        (S,), sums to 0; a rate over few trials weighs little.
        """
        return _excess(self.misses, self.targets) + _excess(self.false_alarms, self.nontargets)

    def worst(self, count: int) -> Counts:
        """The speakers with the largest positive excess, the worst first."""
        order = np.argsort(-self.excess, kind="stable")[:count]
        return order[self.excess[order] > 0]


def _rates(errors: Counts, trials: Counts) -> Floats:
    return np.where(trials > 0, errors / np.maximum(trials, 1), np.nan)


def _excess(errors: Counts, trials: Counts) -> Floats:
    total = max(int(trials.sum()), 1)
    excess: Floats = (errors - errors.sum() / total * trials) / total
    return excess


def hardest_trials(scores: ArrayLike, targets: NDArray[np.bool_], count: int) -> tuple[Counts, Counts]:
    """Indices of the target trials of lowest and of the nontarget trials of highest score, hardest first."""
    values = np.asarray(scores, dtype=np.float64)
    same, different = np.flatnonzero(targets), np.flatnonzero(~targets)
    lowest = np.argsort(values[same], kind="stable")[:count]
    highest = np.argsort(-values[different], kind="stable")[:count]
    return same[lowest], different[highest]


def speaker_names(paths: Sequence[str], speakers: NDArray[np.int64]) -> list[str]:
    """A name for each speaker (S,): the folder that all of its recordings share and no other speaker's do.

    Folders are looked for at one depth, the one that names most speakers; the others are `speaker 12`.
    """
    count = int(speakers.max(initial=-1)) + 1
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    found: dict[int, str] = {}
    for depth in range(max(map(len, folders), default=0)):
        names: dict[int, set[str | None]] = {}
        for speaker, parts in zip(speakers.tolist(), folders, strict=True):
            names.setdefault(speaker, set()).add(parts[depth] if depth < len(parts) else None)
        owners = Counter(name for members in names.values() for name in members)
        unique = {
            speaker: name
            for speaker, members in names.items()
            if len(members) == 1 and (name := next(iter(members))) is not None and owners[name] == 1
        }
        if len(unique) > len(found):
            found = unique
    return [found.get(speaker, f"speaker {speaker}") for speaker in range(count)]
