"""Population-based training: the worst trials go on from the weights of the best, with changed settings.

Jaderberg et al. 2017 (arXiv 1711.09846), in generations: all trials train to the next rung, then the lowest
share is replaced.  Each replacement is a function of history and seed, so it is the same after a restart.
"""

from dataclasses import dataclass
from typing import TypeGuard

from sslsv.runs.checkpoint import FOLDER
from sslsv.runs.folder import RunFolder
from sslsv.search.dimensions import Dimension, Interval
from sslsv.search.history import Decision, History, ranked
from sslsv.search.schedulers import Scheduler
from sslsv.settings import refuse_if

# What a training may change half-way; the rest, such as sizes of layers, is taken over with the weights.
# (The weight decay is not among them: it is part of the optimizer's state.)
SCHEDULE_LIKE = ("optimizer.learning_rate", "optimizer.schedule.", "model.", "data.augment.")


@dataclass(frozen=True)
class Population(Scheduler):
    """At each rung the lowest `share` of the trials go on as changed copies of as many of the best.

    A changed value is its model's times one of `factors`, within its dimension.
    """

    share: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)

    def __post_init__(self) -> None:
        """Refuse shares in which the best would be replaced, and factors that change nothing."""
        refuse_if(
            not 0 < self.share <= 0.5, f"Population(share={self.share}) must be above 0 and at most 0.5"
        )
        refuse_if(
            not self.factors or any(factor <= 0 or factor == 1 for factor in self.factors),
            f"Population(factors={self.factors}) must be factors above 0 other than 1, such as (0.8, 1.25)",
        )

    def rungs_from(self, first: int, total: int) -> list[int]:
        """A generation after every so many epochs."""
        return list(range(first, total, first)) or [first]

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """All starts at first; at each rung, when all are there, who goes on as a copy of whom."""
        if history.started() == 0:
            return [Decision(index, 0, "start", "") for index in range(trials)]
        rung = max((outcome.rung for outcome in history.outcomes), default=0)
        there = history.at_rung(rung)
        if history.open_legs() or rung == rungs - 1:
            return []
        best = [outcome.index for outcome in ranked(there)]
        last = sorted(outcome.index for outcome in there if not outcome.can_win) + best[::-1]
        if not best:
            return []  # none is worth a copy
        count = max(int(trials * self.share), trials - len(best))
        models = best[: min(count, trials - count)]
        sources = {index: models[place % len(models)] for place, index in enumerate(last[:count])}
        decisions = []
        for index in range(trials):
            source = sources.get(index)
            why = "" if source is None else f"as a changed copy of trial {source}"
            decisions.append(Decision(index, rung + 1, "continue", why, source))
        return decisions


def can_change(dimension: Dimension | None, key: str) -> TypeGuard[Interval]:
    """Whether a copy may have another value for a key: fractions that a training may change half-way."""
    is_continuous = isinstance(dimension, Interval) and not dimension.is_integer
    return is_continuous and key.startswith(SCHEDULE_LIKE)


def copy_checkpoints(source: RunFolder, target: RunFolder) -> None:
    """Give a trial the checkpoints of another instead of its own; doing it twice is as doing it once."""
    for name in target.names(FOLDER):
        target.delete(f"{FOLDER}/{name}")
    for name in source.names(FOLDER):
        target.write(f"{FOLDER}/{name}", source.read(f"{FOLDER}/{name}"))
