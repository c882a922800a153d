"""What must not be in a trial list: trials listed twice, self-trials, one pair with both labels."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sslsv.data.list_files import trial_line_numbers

if TYPE_CHECKING:
    from sslsv.data.manifest import Trials

Indices = npt.NDArray[np.int64]

_NAMED = 3  # faults of a kind that the sentence names


@dataclass(frozen=True, kw_only=True)
class TrialFaults:
    """The faulty trials of a list, by their numbers 0 .. J - 1, and which trials a list without faults keeps.

    The order of the two recordings of a pair does not matter. Of a trial listed several times the first is
    kept; of a pair with both labels none is.
    """

    self_trials: Indices  # (S,): a recording against itself
    repeated: Indices  # (K, 2): a trial, and the one before it of the same pair and label
    contradicting: Indices  # (C, 2): a trial, and the one before it of the same pair and the other label
    is_kept: npt.NDArray[np.bool_]  # (J,)

    def __bool__(self) -> bool:
        return bool(len(self.self_trials) or len(self.repeated) or len(self.contradicting))

    def describe(self, root: str | os.PathLike[str], file: str) -> str:
        """Return the faults as a phrase that names the first few lines of the list they were found in."""
        selves, repeated, contradicting = (
            faults[:_NAMED].tolist() for faults in (self.self_trials, self.repeated, self.contradicting)
        )
        named = [*selves, *(i for pair in repeated + contradicting for i in pair)]
        line = trial_line_numbers(root, file, named)
        kinds = {
            "of a recording against itself": (self.self_trials, [f"line {line[i]}" for i in selves]),
            "listed again": (
                self.repeated,
                [f"line {line[i]} repeats line {line[j]}" for i, j in repeated],
            ),
            "listed with the other label too": (
                self.contradicting,
                [f"line {line[i]} contradicts line {line[j]}" for i, j in contradicting],
            ),
        }
        return ", ".join(
            f"{len(faults)} {what} ({', '.join(examples)}{', ...' if len(faults) > _NAMED else ''})"
            for what, (faults, examples) in kinds.items()
            if len(faults)
        )


def find_trial_faults(trials: "Trials") -> TrialFaults:
    """Return the faults of trials; O(J log J), about 40 bytes of memory a trial."""
    low, high = np.minimum(trials.enrol, trials.test), np.maximum(trials.enrol, trials.test)
    is_self = low == high
    pairs = low * len(trials.paths) + high
    del low, high
    order = np.argsort(pairs, kind="stable")
    pairs, labels = pairs[order], trials.targets[order]
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = pairs[1:] != pairs[:-1]
    later = np.flatnonzero(~is_first)
    is_contradicting = labels[later] != labels[later - 1]
    steps = np.stack([order[later], order[later - 1]], axis=1)
    group = np.cumsum(is_first) - 1
    has_both_labels = np.zeros(len(order), dtype=np.bool_)
    has_both_labels[group[later[is_contradicting]]] = True
    is_kept = np.empty(len(order), dtype=np.bool_)
    is_kept[order] = is_first & ~has_both_labels[group]
    return TrialFaults(
        self_trials=np.flatnonzero(is_self),
        repeated=_in_order(steps[~is_contradicting]),
        contradicting=_in_order(steps[is_contradicting]),
        is_kept=is_kept & ~is_self,
    )


def check_trials(trials: "Trials", root: str | os.PathLike[str], file: str) -> None:
    """Raise ValueError, naming lines, if the trials read from a list have faults."""
    faults = find_trial_faults(trials)
    if faults:
        raise ValueError(
            f"{file} has faulty trials: {faults.describe(root, file)}. Remove these lines, or take the list "
            f"without them that `python -m sslsv.prepare_data check {file} --root {root}` writes."
        )


def _in_order(pairs: Indices) -> Indices:
    return pairs[np.argsort(pairs[:, 0])]
