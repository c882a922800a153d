"""Confirmation: the best trials and the base trained anew with other seeds, and compared on the test trials.

A trial is chosen for its value, so its value is too good.  New seeds, and trials that chose nothing, say what
the settings are worth.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.stats import t as student

from sslsv.config import Config, read_config
from sslsv.runs.folder import RunFolder, below
from sslsv.search.history import standing
from sslsv.search.schedulers import RunAll
from sslsv.search.space import Space
from sslsv.search.suggestions import Settings
from sslsv.search.sweep import Sweep
from sslsv.search.sweep_folder import SweepFolder
from sslsv.search.trial_settings import trial_config
from sslsv.settings import refuse_if

LEVEL = 0.95  # of all intervals together
FEWEST_SEEDS, DEFAULT_SEEDS = 2, 3


@dataclass(frozen=True)
class Comparison:
    """A trial's settings against the base on one list of test trials, EER in percent, over the same seeds."""

    trial: int
    test_list: str
    seeds: int  # with which both came to the end
    lost: int  # seeds with which one of them did not
    mean: float
    sd: float
    base_mean: float
    base_sd: float
    difference: float  # trial - base: below 0 the trial is better
    low: float  # of the interval of the difference
    high: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the interval leaves out that there is no difference."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """The same in words; never `better` where only the survivors of several seeds were compared."""
        if not self.is_beyond_noise:
            return "within the noise of the seeds"
        if self.difference > 0:
            return "beyond the noise of the seeds: worse"
        if self.lost:
            return "beyond the noise of the seeds that are left, but others were lost"
        return "beyond the noise of the seeds: better"

    def sentence(self) -> str:
        """What was found, in one sentence."""
        lost = f" ({self.lost} more lost)" if self.lost else ""
        return (
            f"trial {self.trial} on {self.test_list}, {self.seeds} seeds{lost}: EER {self.mean:.2f} % (sd "
            f"{self.sd:.2f}), base {self.base_mean:.2f} % (sd {self.base_sd:.2f}), difference "
            f"{self.difference:+.2f} ({self.low:+.2f} to {self.high:+.2f}), {self.verdict}"
        )


def compare(
    trial: int, test_list: str, values: Sequence[float], base: Sequence[float], level: float, lost: int = 0
) -> Comparison:
    """Mean, standard deviation and paired interval (Student's t) of EERs (N,) against the base's (N,)."""
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(base, dtype=np.float64)
    differences, count = ours - theirs, len(ours)
    half = float(student.ppf((1 + level) / 2, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    mean = float(differences.mean())
    sd, base_sd = float(ours.std(ddof=1)), float(theirs.std(ddof=1))
    return Comparison(
        trial=trial,
        test_list=test_list,
        seeds=count,
        lost=lost,
        mean=float(ours.mean()),
        sd=sd,
        base_mean=float(theirs.mean()),
        base_sd=base_sd,
        difference=mean,
        low=mean - half,
        high=mean + half,
    )


class Confirmation(Sweep):
    """A sweep over settings that are known beforehand, each with the same seeds and trained to the end.

    Kept in `confirm/` of the sweep it confirms; the base comes first for each seed.
    """

    def __init__(self, sweep: Sweep, num_best: int, num_seeds: int) -> None:
        best = [outcome.index for outcome in standing(sweep.folder.history) if outcome.can_win][:num_best]
        self.contestants: list[int | None] = [None, *best]  # trials; None: the base
        self.num_seeds = num_seeds
        rungs = (sweep.rungs[-1],)
        # Nothing is searched: what is trained is written down beforehand, whatever the searcher.
        space = replace(sweep.space, scheduler=RunAll(), rung_epochs=(), rung_samples=(), grace_epochs=None)
        folder = RunFolder.at(below(sweep.folder.folder.location, "confirm"))
        files = SweepFolder(folder, rungs, sweep.folder.metric, sweep.space.is_lower_better)
        super().__init__(space, sweep.base, rungs, files, sweep.resources)
        self._check_lists()
        self._write_plan(sweep)

    @property
    def num_trials(self) -> int:
        """How many trainings it takes."""
        return len(self.contestants) * self.num_seeds

    def config_of(self, index: int) -> Config:
        """As the sweep's trials, but tested at the end."""
        base = replace(self.base, resources=self.resources)
        return confirmation_config(base, self.space, self.folder.suggestions[index])

    def _check_lists(self) -> None:
        """Refuse other test lists than those on which trainings that are there were tested."""
        first = self.folder.trial_folder(0)
        if first.has("config.yml"):
            there = read_config(first.read("config.yml").decode()).evaluation.test
            now = self.base.evaluation.test
            refuse_if(
                there != now,
                f"{self.folder.folder.location} holds a confirmation on {', '.join(there)}, and "
                f"evaluation.test is now {', '.join(now)}; give the same lists, or move that folder away",
            )

    def _write_plan(self, sweep: Sweep) -> None:
        planned: list[Settings] = []
        for number in range(1, self.num_seeds + 1):
            seed = self.base.seed + number  # not the one by which trials were chosen
            for trial in self.contestants:
                settings = {} if trial is None else sweep.folder.suggestions[trial]
                planned.append({**settings, "seed": seed})
        there = [self.folder.suggestions[index] for index in sorted(self.folder.suggestions)]
        refuse_if(
            there != planned[: len(there)],
            f"{self.folder.folder.location} holds a confirmation of other trials or of more seeds; ask for "
            "the same --confirm and at least as many --seeds, or move that folder away",
        )
        for index in range(len(there), len(planned)):
            self.folder.add_suggestion(index, planned[index])

    def comparisons(self) -> list[Comparison]:
        """Every trial against the base on every test list, over the seeds with which both came to the end.

        Those of which fewer than two seeds are left can't be compared; see `incomparable`.
        """
        tests = [self._tests(index) for index in range(self.num_trials)]
        width = len(self.contestants)
        lists = list(dict.fromkeys(name for found in tests for name in found))
        level = 1 - (1 - LEVEL) / max((width - 1) * len(lists), 1)  # Bonferroni
        found = []
        for place, trial in enumerate(self.contestants):
            for name in lists:
                seeds = range(self.num_seeds)
                both = [(tests[s * width + place].get(name), tests[s * width].get(name)) for s in seeds]
                pairs = [(ours, base) for ours, base in both if ours is not None and base is not None]
                if trial is not None and len(pairs) >= FEWEST_SEEDS:
                    ours, base = zip(*pairs, strict=True)
                    found.append(compare(trial, name, ours, base, level, self.num_seeds - len(pairs)))
        return found

    def incomparable(self, comparisons: Sequence[Comparison]) -> list[str]:
        """A sentence for every trial of which too few seeds came to the end."""
        width, compared = len(self.contestants), {comparison.trial for comparison in comparisons}
        return [
            f"trial {trial} can't be compared: with "
            f"{sum(bool(self._tests(s * width + place)) for s in range(self.num_seeds))} of {self.num_seeds} "
            f"seeds it came to the end, the base with "
            f"{sum(bool(self._tests(s * width)) for s in range(self.num_seeds))}, and it takes "
            f"{FEWEST_SEEDS} with which both did"
            for place, trial in enumerate(self.contestants)
            if trial is not None and trial not in compared
        ]

    def _tests(self, index: int) -> dict[str, float]:
        """Test list -> EER of the checkpoint that validation chose; empty unless trained to the end."""
        outcome = self.folder.history.last_outcomes().get(index)
        folder = self.folder.trial_folder(index)
        if outcome is None or outcome.state != "reached" or not folder.has("summary.json"):
            return {}
        best = folder.read_json("summary.json")["best"]
        prefix, suffix = "test/", "/eer"
        return {
            key.removeprefix(prefix).removesuffix(suffix): value
            for key, value in best.items()
            if key.startswith(prefix) and key.endswith(suffix)
        }


def confirmation_config(base: Config, space: Space, settings: Settings) -> Config:
    """Settings of a training that confirms: a trial's, but scored on the base's test lists at its end."""
    config = trial_config(base, space, settings)
    return replace(config, evaluation=replace(config.evaluation, test=base.evaluation.test))


def check_confirmation(base: Config, num_best: int | None, num_seeds: int | None) -> None:
    """Raise ValueError where nothing could be confirmed."""
    refuse_if(
        num_best is None and num_seeds is not None,
        f"--seeds {num_seeds} is for a confirmation; say how many of the best, such as --confirm 3",
    )
    if num_best is None:
        return
    refuse_if(
        num_best < 1, f"--confirm {num_best}: give how many of the best trials to train anew, 1 or more"
    )
    refuse_if(
        num_seeds is not None and num_seeds < FEWEST_SEEDS,
        f"--seeds {num_seeds}: the noise can't be told from one training; give 2 or more",
    )
    refuse_if(
        not base.evaluation.test,
        "evaluation.test is empty, so there are no trials to confirm on that chose nothing; name a list",
    )


def write_comparisons(folder: RunFolder, comparisons: Sequence[Comparison]) -> None:
    """Write confirmation.json into the folder of the sweep, beside its results."""
    folder.write_json(
        "confirmation.json", {"comparisons": [asdict(comparison) for comparison in comparisons]}
    )


def read_comparisons(folder: RunFolder) -> list[Comparison]:
    """What `write_comparisons` wrote, or nothing; earlier versions did not count the seeds that were lost."""
    if not folder.has("confirmation.json"):
        return []
    lines = folder.read_json("confirmation.json")["comparisons"]
    return [Comparison(**line) for line in lines if "lost" in line]
