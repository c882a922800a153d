"""Confirm a sweep: train the best trials and the base with other seeds, and compare them on the test trials.

The value of the selected trial is biased, because the trial was selected by that value. New seeds, and test
trials that were not used for the selection, give unbiased values.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from sslsv.config import Config
from sslsv.runs.folder import RunFolder, below
from sslsv.search.schedulers import standing
from sslsv.search.sweep import Sweep
from sslsv.search.trial_settings import trial_config
from sslsv.settings import refuse_if

LEVEL = 0.95  # joint confidence of all intervals
FEWEST_SEEDS = 2


# The result for a trial and the base on one list of test trials: EERs in percent, over the same seeds.
# `difference` is trial - base, with its interval; below 0, the trial is better.
Comparison = dict[str, Any]


def compare(
    trial: int, test_list: str, values: Sequence[float], base: Sequence[float], level: float, lost: int = 0
) -> Comparison:
    """Compare EERs (N,) with the base's (N,) by mean, deviation and a paired interval (Student's t).

    Both are in the order of the seeds. `lost` counts seeds for which the trial or the base did not finish.
    """
    from scipy.stats import ttest_rel  # takes half a second to import

    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    differences = ours - theirs
    verdict = "within the noise of the seeds"
    if differences.any() and np.ptp(differences) < 1e-9:  # EERs of few trials take few values
        low = high = differences[0]
        verdict += ", which these seeds do not show: all differences are equal"
    else:
        low, high = ttest_rel(ours, theirs).confidence_interval(level)
        if low > 0 or high < 0:
            # Never `better` if seeds were lost, because only the remaining seeds are compared.
            better = "better" if not lost else "but other seeds were lost"
            verdict = f"beyond the noise of the seeds: {'worse' if low > 0 else better}"
    found = {"trial": trial, "test_list": test_list, "seeds": len(ours), "lost": lost, "verdict": verdict}
    found |= {"mean": float(ours.mean()), "sd": float(ours.std(ddof=1))}
    found |= {"base_mean": float(theirs.mean()), "base_sd": float(theirs.std(ddof=1))}
    return found | {"difference": float(differences.mean()), "low": float(low), "high": float(high)}


def sentence(found: Comparison) -> str:
    """Return a comparison as one sentence."""
    lost = f" ({found['lost']} more lost)" if found["lost"] else ""
    return (
        "trial {trial} on {test_list}, {seeds} seeds{}: EER {mean:.2f} % (sd {sd:.2f}), base {base_mean:.2f} "
        "% (sd {base_sd:.2f}), difference {difference:+.2f} ({low:+.2f} to {high:+.2f}), {verdict}"
    ).format(lost, **found)


class Confirmation(Sweep):
    """Train the base and the best trials of a sweep to the end, each with the same new seeds.

    The files are in `confirm/` of the sweep. For each seed, the base comes first.
    """

    def __init__(self, sweep: Sweep, num_best: int, num_seeds: int) -> None:
        able = [outcome.index for outcome in standing(sweep.history) if outcome.can_win]
        base, settings = trial_config(sweep.base, sweep.space, {}), sweep.configurations
        # A trial may have the settings of the base, for example with `tries_base_first`.
        others = (i for i in able if trial_config(sweep.base, sweep.space, settings[i]) != base)
        self.best = list(islice(others, num_best))
        refuse_if(not self.best, "nothing can be confirmed: no trial but the base itself can win")
        self.notes = [
            f"trial {index}, the best of the search, has the settings of the base, so it is not compared"
            for index in able[:1]
            if index not in self.best
        ]
        self.contestants = [None, *self.best]  # numbers of trials; None is the base
        self.num_seeds = num_seeds
        space = replace(sweep.space, scheduler=None, rung_epochs=())
        folder = RunFolder.at(below(sweep.folder.location, "confirm"))
        super().__init__(space, sweep.base, sweep.rungs[-1:], folder, sweep.resources)
        self.num_trials = len(self.contestants) * num_seeds
        # The seeds differ from the seed of the sweep. The test lists are scored at the end.
        lists = list(self.base.evaluation.test)
        planned = [
            {**(sweep.configurations[trial] if trial is not None else {}), "seed": self.base.seed + number}
            | {"evaluation.test": lists}
            for number in range(1, num_seeds + 1)
            for trial in self.contestants
        ]
        known = [self.configurations[index] for index in sorted(self.configurations)]
        refuse_if(
            known != planned[: len(known)],
            f"{folder.location} holds a confirmation of other trials, seeds or lists; give the same "
            "--confirm and evaluation.test, and at least as many --seeds, or move that folder away",
        )
        for index in range(len(known), len(planned)):
            self.add_configuration(index, planned[index])

    def write_results(self) -> None:
        """Write nothing, because none of these trainings is selected."""

    def comparisons(self) -> tuple[list[Comparison], list[str]]:
        """Compare every trial with the base on every list, over the seeds with which both finished.

        Also returns sentences on trials with fewer than two such seeds, and on the best trial of the search
        if it has the settings of the base.
        """
        tests = [self._tests(index) for index in range(self.num_trials)]
        lists = list(dict.fromkeys(name for test in tests for name in test))
        width, found, sentences = len(self.contestants), list[Comparison](), [*self.notes]
        level = 1 - (1 - LEVEL) / max((width - 1) * len(lists), 1)  # Bonferroni
        for place, trial in enumerate(self.best, 1):
            pairs = list(zip(tests[place::width], tests[::width], strict=True))
            both = [(ours, base) for ours, base in pairs if ours and base]
            if len(both) < FEWEST_SEEDS:
                ended, base_ended = (sum(map(bool, side)) for side in zip(*pairs, strict=True))
                sentences.append(
                    f"trial {trial} can't be compared: of {self.num_seeds} seeds it ended with {ended}, the "
                    f"base with {base_ended}, and it takes {FEWEST_SEEDS} with which both did"
                )
                continue
            for name in lists:
                values, theirs = ([side[name] for side in sides] for sides in zip(*both, strict=True))
                found.append(compare(trial, name, values, theirs, level, len(pairs) - len(both)))
        return found, sentences

    def _tests(self, index: int) -> dict[str, float]:
        """Return test list -> EER of the best checkpoint; empty if the training did not finish."""
        outcome, folder = self.history.last_outcomes().get(index), self.trial_folder(index)
        if outcome is None or outcome.state != "reached" or not folder.has("summary.json"):
            return {}
        best = folder.read_json("summary.json")["best"]
        names = [key for key in best if key.startswith("test/") and key.endswith("/eer")]
        return {name.removeprefix("test/").removesuffix("/eer"): best[name] for name in names}


def check_confirmation(base: Config, num_best: int, num_seeds: int) -> None:
    """Raise ValueError if nothing could be confirmed."""
    refuse_if(num_best < 1, f"--confirm {num_best}: say how many of the best to train anew, 1 or more")
    refuse_if(
        num_seeds < FEWEST_SEEDS, f"--seeds {num_seeds}: one training does not tell the noise; give 2 or more"
    )
    refuse_if(not base.evaluation.test, "evaluation.test is empty; name a list of trials to confirm on")
