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
from sslsv.search.schedulers import ranking
from sslsv.search.sweep import Sweep
from sslsv.search.trial_settings import trial_config
from sslsv.settings import refuse_if

LEVEL = 0.95  # joint confidence of all intervals
FEWEST_SEEDS = 2


# The result for a trial and the base on one list of test trials: EERs in percent, over the same seeds.
# `difference` is trial - base, with its interval; below 0, the trial is better.
SeedComparison = dict[str, Any]


def compare(
    trial: int, test_list: str, values: Sequence[float], base: Sequence[float], level: float, lost: int = 0
) -> SeedComparison:
    """Compare EERs (N,) with the base's (N,) by mean, deviation and a paired interval (Student's t).

    Both are in the order of the seeds. `lost` counts seeds for which the trial or the base did not finish.
    """
    from scipy.stats import ttest_rel  # takes half a second to import

    eers, base_eers = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    differences = eers - base_eers
    verdict = "within the noise of the seeds"
    if differences.any() and np.ptp(differences) < 1e-9:  # EERs of few trials take few values
        low = high = differences[0]
        verdict += ", which can't be estimated: all differences are equal"
    else:
        low, high = ttest_rel(eers, base_eers).confidence_interval(level)
        if low > 0 or high < 0:
            # Never `better` if seeds were lost, because only the remaining seeds are compared.
            better = "better" if not lost else "lower, but other seeds were lost"
            verdict = f"beyond the noise of the seeds: {'worse' if low > 0 else better}"
    result = {"trial": trial, "test_list": test_list, "seeds": len(eers), "lost": lost, "verdict": verdict}
    result |= {"mean": float(eers.mean()), "sd": float(eers.std(ddof=1))}
    result |= {"base_mean": float(base_eers.mean()), "base_sd": float(base_eers.std(ddof=1))}
    return result | {"difference": float(differences.mean()), "low": float(low), "high": float(high)}


def describe(comparison: SeedComparison) -> str:
    """Return a comparison as one sentence."""
    lost = f" ({comparison['lost']} more lost)" if comparison["lost"] else ""
    return (
        "trial {trial} on {test_list}, {seeds} seeds{}: EER {mean:.2f} % (sd {sd:.2f}), base {base_mean:.2f} "
        "% (sd {base_sd:.2f}), difference {difference:+.2f} ({low:+.2f} to {high:+.2f}), {verdict}"
    ).format(lost, **comparison)


class Confirmation(Sweep):
    """Train the base and the best trials of a sweep to the end, each with the same new seeds.

    The files are in `confirm/` of the sweep. For each seed, the base comes first.
    """

    def __init__(self, sweep: Sweep, num_best: int, num_seeds: int) -> None:
        best_first = [outcome.index for outcome in ranking(sweep.history) if outcome.can_win]
        base, settings = trial_config(sweep.base, sweep.space, {}), sweep.configurations
        # A trial may have the settings of the base, for example with `tries_base_first`.
        comparable = (i for i in best_first if trial_config(sweep.base, sweep.space, settings[i]) != base)
        self.best = list(islice(comparable, num_best))
        refuse_if(not self.best, "nothing can be confirmed: no trial except the base itself can win")
        self.notes = [
            f"trial {index}, the best of the search, has the settings of the base, so it is not compared"
            for index in best_first[:1]
            if index not in self.best
        ]
        self.contestants = [None, *self.best]  # numbers of trials; None is the base
        self.num_seeds = num_seeds
        space = replace(sweep.space, scheduler=None, rung_epochs=())
        folder = RunFolder.at(below(sweep.folder.location, "confirm"))
        super().__init__(space, sweep.base, sweep.rungs[-1:], folder, sweep.resources)
        self.num_trials = len(self.contestants) * num_seeds
        # The seeds differ from the seed of the sweep. The test lists are scored at the end.
        test_lists = list(self.base.evaluation.test)
        planned = [
            {**(sweep.configurations[trial] if trial is not None else {}), "seed": self.base.seed + number}
            | {"evaluation.test": test_lists}
            for number in range(1, num_seeds + 1)
            for trial in self.contestants
        ]
        recorded = [self.configurations[index] for index in sorted(self.configurations)]
        refuse_if(
            recorded != planned[: len(recorded)],
            f"{folder.location} holds a confirmation of other trials, seeds or lists; give the same "
            "--confirm and evaluation.test, and at least as many --seeds, or move that folder away",
        )
        for index in range(len(recorded), len(planned)):
            self.add_configuration(index, planned[index])

    def write_results(self) -> None:
        """Write nothing, because none of these trainings is selected."""

    def comparisons(self) -> tuple[list[SeedComparison], list[str]]:
        """Compare every trial with the base on every list, over the seeds with which both finished.

        Also returns sentences on trials with fewer than two such seeds, and on the best trial of the search
        if it has the settings of the base.
        """
        runs = [self._test_eers(index) for index in range(self.num_trials)]
        test_lists = list(dict.fromkeys(name for eers in runs for name in eers))
        num_contestants, comparisons, sentences = len(self.contestants), list[SeedComparison](), [*self.notes]
        level = 1 - (1 - LEVEL) / max((num_contestants - 1) * len(test_lists), 1)  # Bonferroni
        for offset, trial in enumerate(self.best, 1):
            pairs = list(zip(runs[offset::num_contestants], runs[::num_contestants], strict=True))
            finished = [(ours, base) for ours, base in pairs if ours and base]
            num_lost = len(pairs) - len(finished)
            if len(finished) < FEWEST_SEEDS:
                ended, base_ended = (sum(map(bool, side)) for side in zip(*pairs, strict=True))
                sentences.append(
                    f"trial {trial} can't be compared: of {self.num_seeds} seeds, it finished {ended} and "
                    f"the base {base_ended}, but at least {FEWEST_SEEDS} finished by both are needed"
                )
                continue
            for name in test_lists:
                values, base_values = ([eers[name] for eers in side] for side in zip(*finished, strict=True))
                comparisons.append(compare(trial, name, values, base_values, level, num_lost))
        return comparisons, sentences

    def _test_eers(self, index: int) -> dict[str, float]:
        """Return test list -> EER of the best checkpoint; empty if the training did not finish."""
        outcome, folder = self.history.last_outcomes().get(index), self.trial_folder(index)
        if outcome is None or outcome.state != "reached" or not folder.has("summary.json"):
            return {}
        best = folder.read_json("summary.json")["best"]
        names = [key for key in best if key.startswith("test/") and key.endswith("/eer")]
        return {name.removeprefix("test/").removesuffix("/eer"): best[name] for name in names}


def check_confirmation(base: Config, num_best: int, num_seeds: int) -> None:
    """Raise ValueError if nothing could be confirmed."""
    refuse_if(num_best < 1, f"--confirm {num_best}: give the number of best trials to train again, 1 or more")
    refuse_if(
        num_seeds < FEWEST_SEEDS, f"--seeds {num_seeds}: one training does not show the noise; give 2 or more"
    )
    refuse_if(not base.evaluation.test, "evaluation.test is empty; name a list of trials to confirm on")
