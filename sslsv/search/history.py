"""What has happened in a sweep, and what was decided: the only thing that schedulers see.

Pure values: the files they are kept in are sweep_folder.py's business.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Decision:
    """What becomes of a trial: it may train up to a rung (`start`, `continue`), or ends at it (`stop`)."""

    index: int  # of the trial, from 0
    rung: int  # from 0; the last one is the end of training
    action: Literal["start", "continue", "stop"]
    why: str
    source: int | None = None  # the trial whose weights it goes on from, if they are not its own


@dataclass(frozen=True)
class Outcome:
    """How a leg, the training of a trial up to a rung, ended; `cost` is what to minimise."""

    index: int
    rung: int
    state: Literal["reached", "collapsed", "failed"]
    cost: float | None = None  # None: worthless
    why: str = ""

    @property
    def can_win(self) -> bool:
        """Whether the trial may be preferred to another: it reached its rung with a number."""
        return self.state == "reached" and self.cost is not None


@dataclass
class History:
    """Decisions in the order they were made, outcomes in the order they arrived."""

    decisions: list[Decision] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def open_legs(self) -> list[Decision]:
        """What was allowed and has no outcome yet: running, waiting for a place, or interrupted."""
        ended = {(outcome.index, outcome.rung) for outcome in self.outcomes}
        return [d for d in self.decisions if d.action != "stop" and (d.index, d.rung) not in ended]

    def started(self) -> int:
        """How many trials were started."""
        return sum(decision.action == "start" for decision in self.decisions)

    def stopped(self) -> set[int]:
        """Trials whose last decision is that they end before their last rung."""
        last = {decision.index: decision.action for decision in self.decisions}
        return {index for index, action in last.items() if action == "stop"}

    def at_rung(self, rung: int) -> list[Outcome]:
        """Outcomes of the legs to a rung."""
        return [outcome for outcome in self.outcomes if outcome.rung == rung]

    def continued(self, rung: int) -> set[int]:
        """Trials that were allowed to go on beyond a rung."""
        return {d.index for d in self.decisions if d.action == "continue" and d.rung == rung + 1}

    def last_outcomes(self) -> dict[int, Outcome]:
        """Trial -> its outcome at the highest rung it got to."""
        return {outcome.index: outcome for outcome in sorted(self.outcomes, key=lambda o: o.rung)}


def ranked(outcomes: list[Outcome]) -> list[Outcome]:
    """Those that can win, best first; equal costs in the order of the trials."""
    return sorted((o for o in outcomes if o.can_win), key=lambda o: (o.cost, o.index))


def standing(history: History) -> list[Outcome]:
    """Last outcome of every trial, best first: further beats better, and what can't win comes last."""
    last = history.last_outcomes().values()
    good = sorted((o for o in last if o.can_win), key=lambda o: (-o.rung, o.cost, o.index))
    return good + sorted((o for o in last if not o.can_win), key=lambda o: o.index)
