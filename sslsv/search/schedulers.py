"""Decide which trial trains next, and how far, by pure functions of the history (no clock, no random draws).

A *rung* is an epoch at which trials are compared; the last rung is the end of training. A *segment* trains
one trial up to a rung and ends by itself, so no trial has to be killed, and a waiting trial holds no
resources. A resumed sweep makes the remaining decisions from the same history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslsv.settings import refuse_if


@dataclass(frozen=True)
class Decision:
    """Let a trial train one segment, up to a rung. A trial without further decisions has stopped."""

    index: int  # number of the trial, from 0
    rung: int  # number of the rung, from 0


@dataclass(frozen=True)
class Outcome:
    """Hold how a segment ended. A lower `cost` is better; None means that there is no usable result."""

    index: int
    rung: int
    state: Literal["reached", "collapsed", "failed"]  # "reached": trained to the end of the rung's epoch
    cost: float | None = None
    why: str = ""  # the reason, empty for "reached"

    @property
    def can_win(self) -> bool:
        """Return whether the trial reached its rung with a finite metric."""
        return self.state == "reached" and self.cost is not None


@dataclass
class History:
    """Hold the decisions in the order they were made, and the outcomes in the order they arrived."""

    decisions: list[Decision] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def open_segments(self) -> list[Decision]:
        """Return the segments without an outcome: running, waiting for resources, or interrupted."""
        ended = {(outcome.index, outcome.rung) for outcome in self.outcomes}
        return [decision for decision in self.decisions if (decision.index, decision.rung) not in ended]

    def at_rung(self, rung: int) -> list[Outcome]:
        """Return the outcomes at a rung."""
        return [outcome for outcome in self.outcomes if outcome.rung == rung]

    def waiting(self, rung: int) -> list[Outcome]:
        """Return the outcomes at a rung that can win and were not promoted, best first."""
        promoted = {decision.index for decision in self.decisions if decision.rung > rung}
        return [outcome for outcome in ranked(self.at_rung(rung)) if outcome.index not in promoted]

    def last_outcomes(self) -> dict[int, Outcome]:
        """Return trial -> its outcome at its highest rung."""
        return {outcome.index: outcome for outcome in sorted(self.outcomes, key=lambda o: o.rung)}


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Sort the outcomes that can win, best first; equal costs are in the order of the trials."""
    return sorted((o for o in outcomes if o.can_win), key=lambda o: (o.cost, o.index))


def ranking(history: History) -> list[Outcome]:
    """Sort the last outcomes of all trials, best first: a higher rung beats a lower cost at a lower rung."""
    last = history.last_outcomes().values()
    usable = sorted(ranked(list(last)), key=lambda o: -o.rung)
    return usable + sorted((o for o in last if not o.can_win), key=lambda o: o.index)


@dataclass(frozen=True)
class Halving:
    """Train all trials to the first rung, the best 1/`reduction` of them to the next, and so on.

    Promotion waits for all trials of a rung (Jamieson and Talwalkar, AISTATS 2016, arXiv 1502.07943). With a
    single rung, at the last epoch, every scheduler trains all trials to the end.
    """

    takes_more_trials: ClassVar[bool] = False  # True if a sweep can get more trials later
    reduction: int = 3

    def __post_init__(self) -> None:
        refuse_if(self.reduction < 2, f"reduction is {self.reduction}; one trial in 2, 3 or 4 should go on")

    def decide(self, history: History, num_trials: int, num_rungs: int, at_once: int) -> list[Decision]:
        """Return the decisions to add to the history; none if they depend on the next outcome.

        `at_once` is the number of segments that fit at once. The sweep is over when there is no further
        decision and no open segment.
        """
        if not history.decisions:
            return [Decision(index, 0) for index in range(num_trials)]
        if history.open_segments():
            return []
        rung = max(outcome.rung for outcome in history.outcomes)
        outcomes = history.at_rung(rung)
        winners = ranked(outcomes)[: max(len(outcomes) // self.reduction, 1)]
        if rung == num_rungs - 1 or not winners:
            return _train_the_furthest(history, num_rungs)
        return [Decision(outcome.index, rung + 1) for outcome in winners]


@dataclass(frozen=True)
class Asha(Halving):
    """Promote the best 1/`reduction` of a rung so far, else start a trial, without waiting for slow trials.

    Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934, algorithm 2). The decisions
    depend on the order in which segments end; with one segment at a time that order is fixed.
    """

    takes_more_trials = True

    def decide(self, history: History, num_trials: int, num_rungs: int, at_once: int) -> list[Decision]:
        """Return at most one promotion or one start; see `Halving.decide`."""
        num_open = len(history.open_segments())
        num_started = len({decision.index for decision in history.decisions})
        if num_open >= at_once:
            return []
        for rung in reversed(range(num_rungs - 1)):
            outcomes = history.at_rung(rung)
            best = ranked(outcomes)[: len(outcomes) // self.reduction]
            for outcome in history.waiting(rung):
                if outcome in best:
                    return [Decision(outcome.index, rung + 1)]
        if num_started < num_trials:
            return [Decision(num_started, 0)]
        return [] if num_open else _train_the_furthest(history, num_rungs)


def _train_the_furthest(history: History, num_rungs: int) -> list[Decision]:
    """Promote the best trial that waits at the highest rung, unless a trial has been trained to the end.

    If every promoted trial fails, the best remaining trial continues, so that a trial can still finish.
    """
    waiting = [outcome for rung in reversed(range(num_rungs - 1)) for outcome in history.waiting(rung)]
    if any(outcome.can_win for outcome in history.at_rung(num_rungs - 1)):
        return []
    return [Decision(best.index, best.rung + 1) for best in waiting[:1]]
