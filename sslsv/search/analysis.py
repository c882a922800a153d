"""What a sweep taught: which settings mattered, whether early rungs told the end, what was saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy.stats import spearmanr

from sslsv.search.criteria import FEWEST, is_number
from sslsv.search.history import History
from sslsv.search.suggestions import Settings, Suggester
from sslsv.search.sweep import Sweep

FEWEST_FOR_IMPORTANCE = 8
TRUSTED = 0.6  # rank correlation below which stopping at a rung is little better than chance

AtRungs = Mapping[int, Mapping[int, Mapping[str, Any]]]  # epoch -> trial -> record


@dataclass(frozen=True)
class RungCorrelation:
    """How well the order of the trials at one rung told that at a later one."""

    early: int  # epochs
    late: int
    trials: int  # that reached both
    rho: float | None  # Spearman's, -1 to 1; None where one of the orders is constant

    @property
    def is_trusted(self) -> bool:
        """Whether stopping at the early rung was sound, as far as this can be seen."""
        return self.rho is not None and self.rho >= TRUSTED


def rung_correlations(at_rungs: AtRungs, metric: str) -> list[RungCorrelation]:
    """Every two rungs that at least three trials reached.

    Only the trials that were let go on are at the later one, and those are alike: the true correlation, over
    all trials, is likely to be higher.
    """
    found = []
    for early, late in combinations(sorted(at_rungs), 2):
        both = [
            (first[metric], last[metric])
            for index, first in at_rungs[early].items()
            if (last := at_rungs[late].get(index)) is not None
            and is_number(first.get(metric))
            and is_number(last.get(metric))
        ]
        if len(both) < FEWEST:
            continue
        is_constant = any(len(set(values)) == 1 for values in zip(*both, strict=True))
        rho = None if is_constant else float(spearmanr(*zip(*both, strict=True)).statistic)
        found.append(RungCorrelation(early, late, len(both), rho))
    return found


def importance(
    suggester: Suggester, suggestions: Mapping[int, Settings], history: History
) -> tuple[dict[str, float], int]:
    """Share of the variance of the metric at the first rung that each setting explains, largest first.

    By a random forest (fANOVA: Hutter et al., ICML 2014) over the trials that got there alive, the number of
    which comes second.  `suggestions` are those with which they did.  Settings that only some trials have are
    left out.  Empty below eight trials with different values.
    """
    import optuna  # takes a second

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = suggester.told(suggestions, history, rung=0)
    done = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(done) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in done}) < 2:
        return {}, len(done)
    study = optuna.create_study()
    study.add_trials(done)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=suggester.space.seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}, len(done)


@dataclass(frozen=True)
class Savings:
    """What the sweep trained, against training to the end every trial that could have won there."""

    epochs: float
    epochs_in_full: float
    seconds: float
    seconds_in_full: float  # at the pace of the epochs that were trained

    @property
    def factor(self) -> float:
        """How many times fewer epochs."""
        return self.epochs_in_full / self.epochs


def savings(sweep: Sweep) -> Savings | None:
    """Epochs and seconds of all trials, validation included; None before the first validation.

    Trials that collapsed, diverged or could not begin would have ended where they did without stopping, too.
    """
    indices = sweep.folder.suggestions
    last = {i: records[-1] for i in indices if (records := sweep.folder.records_of(i))}
    trained = {index: float(record["epoch"]) for index, record in last.items()}
    epochs = sum(trained.values())
    if epochs == 0:
        return None
    seconds = sum(float(record.get("seconds", 0.0)) for record in last.values())
    alive = {index for index, outcome in sweep.folder.history.last_outcomes().items() if outcome.can_win}
    in_full = sum(sweep.rungs[-1] if index in alive else trained.get(index, 0.0) for index in indices)
    return Savings(epochs, in_full, seconds, seconds * in_full / epochs)
