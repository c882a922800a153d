"""Which trial trains next, and how far: pure functions of what has happened, without clocks or chance.

A trial trains in legs, each up to a rung (an epoch at which trials are compared), and its process ends with
the leg.  So nothing has to be stopped from outside, waiting holds no resources, and a sweep that was killed
makes the decisions that are still to make from the same history.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from sslsv.search.history import Decision, History, Outcome, ranked
from sslsv.settings import refuse_if


@dataclass(frozen=True)
class Scheduler(ABC):
    """What all schedulers can be asked."""

    takes_more_trials: ClassVar[bool] = False  # whether a sweep may be given more trials when it has begun

    @abstractmethod
    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """Decisions to add to the history now; none while there is nothing to decide before the next outcome.

        `trials` is how many to try, `rungs` how many rungs there are (the last is the end of training),
        `at_once` how many legs fit.  The sweep is over when nothing is decided and no leg is open.
        """

    def rungs_from(self, first: int, total: int) -> list[int]:
        """Epochs of the rungs, where the space gives only the first one; the end of training is left out."""
        return [first]


@dataclass(frozen=True)
class RunAll(Scheduler):
    """Every trial trains to the end."""

    takes_more_trials = True

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """Start as many as there is room for."""
        first = history.started()
        last = min(first + max(at_once - len(history.open_legs()), 0), trials)
        return _starts(range(first, last), rung=rungs - 1)


@dataclass(frozen=True)
class Asha(Scheduler):
    """Asynchronous successive halving: the best 1/`reduction` at a rung so far go on, else a trial starts.

    Li et al., MLSys 2020 (arXiv 1810.05934), algorithm 2 (promotion): nothing waits for slower trials, so the
    decisions depend on the order in which legs end; with one leg at a time that order is fixed.  When the
    trials are used up and none has been trained to the end, the best of those that came furthest is.  Given
    more trials, one that was stopped may go on, if it is among the best of all.
    """

    takes_more_trials = True
    reduction: int = 3

    def __post_init__(self) -> None:
        """Refuse reductions that keep everything."""
        _check_reduction(self.reduction)

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """At most one promotion or one start; the stops when all is done."""
        num_open = len(history.open_legs())
        if num_open >= at_once:
            return []
        promotion = self._promotion(history, rungs)
        if promotion is not None:
            return [promotion]
        started = history.started()
        if started < trials:
            return _starts(range(started, started + 1), rung=0)
        if num_open:
            return []
        return _train_the_furthest(history, rungs, range(trials)) or _stop_waiting(history, rungs)

    def _promotion(self, history: History, rungs: int) -> Decision | None:
        for rung in reversed(range(rungs - 1)):
            there, gone = history.at_rung(rung), history.continued(rung)
            for place, outcome in enumerate(ranked(there)[: len(there) // self.reduction]):
                if outcome.index not in gone:
                    why = f"number {place + 1} of {len(there)} so far"
                    return Decision(outcome.index, rung + 1, "continue", why)
        return None

    def rungs_from(self, first: int, total: int) -> list[int]:
        """Each `reduction` times as far as the one before, so that every rung costs the same in all."""
        return _powers(first, self.reduction, total)


@dataclass(frozen=True)
class Halving(Scheduler):
    """Successive halving: all trials train to the first rung, the best 1/`reduction` of them to the next ...

    Jamieson and Talwalkar, AISTATS 2016 (arXiv 1502.07943).  A rung waits for all its trials.
    """

    reduction: int = 3

    def __post_init__(self) -> None:
        """Refuse reductions that keep everything."""
        _check_reduction(self.reduction)

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """All starts at first; at each rung, when all are there, who goes on and who does not."""
        if history.started() == 0:
            return _starts(range(trials), rung=0)
        return _decide_rung(history, range(trials), rungs, self.places)

    def places(self, there: int) -> int:
        """How many of those at a rung go on; always one."""
        return max(there // self.reduction, 1)

    def rungs_from(self, first: int, total: int) -> list[int]:
        """Each `reduction` times as far as the one before, so that every rung costs the same in all."""
        return _powers(first, self.reduction, total)


@dataclass(frozen=True)
class Hyperband(Halving):
    """Successive halving in brackets: many trials from the first rung, then fewer from the second, and so on.

    Li et al., JMLR 2018 (arXiv 1603.06560), algorithm 1: a guard against rungs too early to tell.  Brackets
    run one after another and repeat until the trials are used up.  A searcher that learns sees those before.
    """

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """The next bracket's starts when the one before is over; inside a bracket as successive halving."""
        for first_rung, members in self.brackets(trials, rungs):
            if members.start >= history.started():
                return _starts(members, rung=first_rung)
            decisions = _decide_rung(history, members, rungs, self.places)
            if decisions or any(leg.index in members for leg in history.open_legs()):
                return decisions
        return []

    def brackets(self, trials: int, rungs: int) -> list[tuple[int, range]]:
        """First rung and trials of every bracket; the last one may be smaller than it should."""
        found: list[tuple[int, range]] = []
        start = 0
        while start < trials:
            first_rung = len(found) % rungs
            halvings = rungs - 1 - first_rung
            size = -(-rungs * self.reduction**halvings // (halvings + 1))  # rounded up
            found.append((first_rung, range(start, min(start + size, trials))))
            start += size
        return found


@dataclass(frozen=True)
class TopK(Scheduler):
    """All trials train to the first rung, the `keep` best of them to the end: a baseline hard to beat."""

    keep: int = 3

    def __post_init__(self) -> None:
        """Refuse to keep none."""
        refuse_if(self.keep < 1, f"TopK(keep={self.keep}) trains nothing to the end; keep 1 or more")

    def decide(self, history: History, trials: int, rungs: int, at_once: int) -> list[Decision]:
        """All starts at first; when all are there, who goes on and who does not."""
        if history.started() == 0:
            return _starts(range(trials), rung=0)
        return _decide_rung(history, range(trials), rungs, lambda there: self.keep)


def _check_reduction(reduction: int) -> None:
    refuse_if(reduction < 2, f"reduction is {reduction}; one in 2 or more goes on: give 2, 3 or 4")


def _powers(first: int, ratio: int, below: int) -> list[int]:
    found = [first]
    while found[-1] * ratio < below:
        found.append(found[-1] * ratio)
    return found


def _starts(indices: range, rung: int) -> list[Decision]:
    return [Decision(index, rung, "start", "") for index in indices]


def _decide_rung(
    history: History, members: range, rungs: int, places: Callable[[int], int]
) -> list[Decision]:
    """Who of the members goes on from the highest rung they are at, once no leg of theirs is open.

    Where all that went on collapsed or failed, the best of those left behind goes on after all.
    """
    if any(leg.index in members for leg in history.open_legs()):
        return []
    last = [outcome for outcome in history.last_outcomes().values() if outcome.index in members]
    rung = max(outcome.rung for outcome in last)
    there = sorted((outcome for outcome in last if outcome.rung == rung), key=lambda o: o.index)
    if rung == rungs - 1 or history.stopped() >= {outcome.index for outcome in there}:
        return _train_the_furthest(history, rungs, members)
    winners = {o.index: place + 1 for place, o in enumerate(ranked(there)[: places(len(there))])}
    decisions = []
    for outcome in there:
        if outcome.index in winners:
            why = f"number {winners[outcome.index]} of {len(there)}"
            decisions.append(Decision(outcome.index, rung + 1, "continue", why))
        elif outcome.index not in history.stopped():
            decisions.append(_stop(outcome, f"not among the best {len(winners)} of {len(there)}"))
    return decisions


def _train_the_furthest(history: History, rungs: int, members: range) -> list[Decision]:
    """The best of the members at the highest rung goes on, unless one has been trained to the end."""
    if any(outcome.can_win and outcome.index in members for outcome in history.at_rung(rungs - 1)):
        return []
    for rung in reversed(range(rungs - 1)):
        there = [outcome for outcome in history.at_rung(rung) if outcome.index in members]
        gone = history.continued(rung)
        waiting = [outcome for outcome in ranked(there) if outcome.index not in gone]
        if waiting:
            return [Decision(waiting[0].index, rung + 1, "continue", "best of those that came furthest")]
    return []


def _stop_waiting(history: History, rungs: int) -> list[Decision]:
    """Stop all that wait at a rung."""
    stopped = history.stopped()
    last = sorted(history.last_outcomes().values(), key=lambda outcome: outcome.index)
    return [
        _stop(outcome, "not among the best")
        for outcome in last
        if outcome.rung < rungs - 1 and outcome.index not in stopped
    ]


def _stop(outcome: Outcome, why: str) -> Decision:
    reasons = {"collapsed": "its embeddings collapsed", "failed": "it failed", "reached": why}
    return Decision(outcome.index, outcome.rung, "stop", reasons[outcome.state])
