"""Trial lists as an evaluation scores them: complete, or with what was left out counted."""

import hashlib
import posixpath
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyarrow import fs

from sslsv.data.lists import (
    Indices,
    Trials,
    find_trial_faults,
    list_lines,
    list_location,
    read_trials,
    trial_rows,
)
from sslsv.data.recordings import open_recordings
from sslsv.evaluation.intervals import contradicting_trials
from sslsv.runs.folder import absolute, open_filesystem

NAMED = 5  # culprits that an error names


class TrialListError(ValueError):
    """A list that can't be scored as it stands; the message names lines and says what to do."""


@dataclass(frozen=True)
class TrialList:
    """A trial list that was read: what will be scored, and the counts of what was left out."""

    name: str  # the list's file name
    file: str  # path or URI
    root: str  # folder that the recordings are below
    trials: Trials
    left_out: dict[str, int]  # "missing_recordings", "skipped_trials" ...: only what is not 0

    def describe(self) -> dict[str, Any]:
        """File, checksum and counts, for evaluation.json."""
        checksum = hashlib.sha256()
        filesystem, path = open_filesystem(self.file)
        with filesystem.open_input_stream(path) as content:
            while block := content.read(2**20):
                checksum.update(block)
        return {"file": self.file, "sha256": checksum.hexdigest(), "counts": dict(self.left_out)}

    def without_faults(self) -> "TrialList":
        """The list without self-trials, repetitions and pairs with both labels, which are counted."""
        faults = find_trial_faults(self.trials)
        if not faults:
            return self
        kinds = {
            "self": faults.self_trials,
            "repeated": faults.repeated,
            "contradicting": faults.contradicting,
        }
        left_out = {f"{kind}_trials": len(found) for kind, found in kinds.items() if len(found)}
        left_out["skipped_trials"] = len(self.trials) - int(faults.is_kept.sum())
        trials = replace(
            self.trials,
            enrol=self.trials.enrol[faults.is_kept],
            test=self.trials.test[faults.is_kept],
            targets=self.trials.targets[faults.is_kept],
        )
        return replace(self, trials=drop_recordings(trials, []), left_out=left_out)

    def without(self, bad: Collection[int], reasons: str) -> "TrialList":
        """The list without the trials of some recordings, which are counted as `reasons`.

        Raises TrialListError when no target or no nontarget trial is left.
        """
        trials = drop_recordings(self.trials, bad)
        left_out = dict(self.left_out)
        left_out[reasons] = left_out.get(reasons, 0) + len(bad)
        left_out["skipped_trials"] = left_out.get("skipped_trials", 0) + len(self.trials) - len(trials)
        if trials.targets.all() or not trials.targets.any():
            raise TrialListError(
                f"{self.name}: of {len(self.trials)} trials {int(trials.targets.sum())} target and "
                f"{int((~trials.targets).sum())} nontarget trials can be scored, and both kinds are needed; "
                "is --root the folder that its paths are relative to?"
            )
        return replace(self, trials=trials, left_out=left_out)


def open_list(root: str, name: str, *, is_lenient: bool) -> TrialList:
    """Read a list given by its name below `root`, or by a path, with every recording looked for.

    Unless `is_lenient`, a recording that is not there is an error that names lines; else its trials are left
    out and counted, like trials listed twice and trials of a recording with itself. Raises TrialListError,
    ValueError or FileNotFoundError.
    """
    file = list_location(root, name)
    if is_list(name) and not is_list(file):
        file = absolute(name)
    trials = read_trials(root, file, is_strict=not is_lenient)
    found = TrialList(posixpath.basename(file.partition("?")[0]), file, root, trials, {})
    if is_lenient:
        found = found.without_faults()
    trials = found.trials
    check_speakers(found)
    recordings = open_recordings(root)
    missing = [i for i, path in enumerate(trials.paths) if not recordings.has(path)]
    if not missing:
        return found
    if is_lenient:
        return found.without(missing, "missing_recordings")
    raise TrialListError(culprits(found, missing, "do not exist"))


def culprits(trial_list: TrialList, bad: Collection[int], what: str) -> str:
    """A sentence that names the first of some recordings, and the lines where they stand."""
    paths = [trial_list.trials.paths[i] for i in sorted(bad)[:NAMED]]
    lines = first_lines(trial_list.file, paths)
    named = ", ".join(f"{path} (line {line})" for path, line in zip(paths, lines, strict=True))
    more = ", ..." if len(bad) > NAMED else ""
    return (
        f"{len(bad)} of {len(trial_list.trials.paths)} recordings of {trial_list.file} {what}: "
        f"{named}{more}; correct the list, give the right --root, or leave their trials out with "
        "--allow-missing"
    )


def check_speakers(trial_list: TrialList) -> None:
    """Raise TrialListError, naming lines, for a nontarget trial of what target trials say is one speaker.

    Also through others: where `a b` and `b c` are target trials, `a c` is one too.
    """
    trials = trial_list.trials
    wrong = contradicting_trials(len(trials.paths), trials.enrol, trials.test, trials.targets)
    if not len(wrong):
        return
    named = [(trials.paths[trials.enrol[i]], trials.paths[trials.test[i]]) for i in wrong[:NAMED]]
    wanted = {pair: i for i, (a, b) in enumerate(named) for pair in ((a, b), tuple(map(_shortened, (a, b))))}
    lines: dict[int, int] = {}
    for number, _, first, second in trial_rows(trial_list.root, trial_list.file):
        if (first, second) in wanted:
            lines.setdefault(wanted[first, second], number)
        if len(lines) == len(named):
            break
    places = ", ".join(f"line {lines[i]} ({a} {b})" for i, (a, b) in enumerate(named))
    raise TrialListError(
        f"{len(wrong)} nontarget trials of {trial_list.file} compare recordings that target trials, through "
        f"others, say are one speaker's: {places}{', ...' if len(wrong) > NAMED else ''}; correct the labels"
    )


def _shortened(path: str) -> str:
    """The path as a list may have it that leaves out the first folder."""
    return path.partition("/")[2]


def is_list(place: str) -> bool:
    """Whether there is a file at a path or URI."""
    filesystem, path = open_filesystem(absolute(place))
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def first_lines(file: str, paths: list[str]) -> list[int | str]:
    """Number of the first line that names each path (the list may leave out its first folder)."""
    wanted = {form: i for i, path in enumerate(paths) for form in (path, _shortened(path)) if form}
    found: dict[int, int] = {}
    for number, line in list_lines(file, file):
        for field in line.split()[1:]:
            if field in wanted:
                found.setdefault(wanted[field], number)
        if len(found) == len(paths):
            break
    return [found.get(i, "?") for i in range(len(paths))]


def count_shared(trials: Trials, root: str, others: Trials, other_root: str) -> int:
    """How many trials compare two recordings that others compare too, either way round.

    Recordings are the same where their paths below the two folders are.
    """
    number_of: dict[str, int] = {}
    for path in others.paths:
        number_of.setdefault(_below(other_root, path), len(number_of))
    at = np.array([number_of.get(_below(root, path), -1) for path in trials.paths], dtype=np.int64)
    other_at = np.array([number_of[_below(other_root, path)] for path in others.paths], dtype=np.int64)

    def pairs(first: Indices, second: Indices) -> Indices:
        return np.minimum(first, second) * len(number_of) + np.maximum(first, second)

    enrol, test = at[trials.enrol], at[trials.test]
    is_known = (enrol >= 0) & (test >= 0)
    known = pairs(other_at[others.enrol], other_at[others.test])
    return int(np.isin(pairs(enrol[is_known], test[is_known]), known).sum())


def _below(root: str, path: str) -> str:
    return path.removeprefix(f"{absolute(root).rstrip('/')}/")


def drop_recordings(trials: Trials, bad: Collection[int]) -> Trials:
    """The trials without those of some recordings; recordings that no trial needs any more go too."""
    is_bad = np.zeros(len(trials.paths), dtype=bool)
    is_bad[list(bad)] = True
    kept = ~(is_bad[trials.enrol] | is_bad[trials.test])
    used, places = np.unique(np.stack([trials.enrol[kept], trials.test[kept]]), return_inverse=True)
    enrol, test = places.reshape(2, -1).astype(np.int64)
    return Trials(
        paths=[trials.paths[i] for i in used],
        enrol=enrol,
        test=test,
        targets=trials.targets[kept],
        versions=trials.versions[used],
    )
