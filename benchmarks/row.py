"""Define a row of the result table: our speed, that of a reference, their ratio and its target."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sslsv.runs.environment import computes_bf16

PRECISION = "bf16" if computes_bf16() else "fp32"  # the fastest precision of this CPU


@dataclass(frozen=True)
class Settings:
    """Hold the settings of all groups of rows."""

    corpus: Path | None  # in VoxCeleb's layout, for the group end-to-end; None: synthetic
    is_quick: bool  # tiny sizes, which only test the code

    @property
    def pairs(self) -> int:
        """Return the number of (ours, reference) pairs to measure."""
        return 2 if self.is_quick else 5


@dataclass
class Row:
    """Hold ratios of alternating runs (ours, reference); above 1 ours is faster."""

    name: str
    reference: str  # what ours is compared with
    ours: float  # median
    theirs: float  # median; 0 without a reference
    unit: str
    ratios: list[float] = field(default_factory=list)
    target: float | None = None  # minimum of the ratio
    most: float | None = None  # maximum of ours
    limit: str = ""  # upper limit of any code on this machine, measured in this run
    skipped: str = ""  # reason why the row was not measured

    @property
    def ratio(self) -> float | None:
        """Return the median ratio of the pairs."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def is_reached(self) -> bool | None:
        """Return whether the row meets its target; None if it has none or was skipped."""
        if self.skipped or (self.target is None and self.most is None):
            return None
        is_fast_enough = self.target is None or (self.ratio is not None and self.ratio >= self.target)
        return is_fast_enough and (self.most is None or self.ours <= self.most)

    def cells(self) -> list[str]:
        """Return the row as text, a string per column."""
        if self.skipped:
            return [self.name, "", self.reference, "", "", "", f"skipped: {self.skipped}"]
        spread = f" ({min(self.ratios):.2f} to {max(self.ratios):.2f})" if self.ratios else ""
        targets = [f"{self.target:g}x"] if self.target is not None else []
        targets += [f"< {self.most:g} {self.unit}"] if self.most is not None else []
        return [
            self.name,
            f"{self.ours:.4g} {self.unit}",
            f"{self.reference}: {self.theirs:.4g}" if self.ratios else self.reference,
            f"{self.ratio:.2f}x{spread}" if self.ratio is not None else "",
            ", ".join(targets),
            {True: "yes", False: "NO", None: ""}[self.is_reached],
            self.limit,
        ]


HEADER = ["", "ours", "reference", "ratio", "target", "reached", "limit"]


def in_turns(
    ours: Callable[[], object],
    reference: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Return the seconds of each pair (ours, reference), run alternately after one warm-up of each."""

    def seconds(way: Callable[[], object]) -> float:
        started = clock()
        way()
        return clock() - started

    seconds(ours), seconds(reference)
    return [(seconds(ours), seconds(reference)) for _ in range(pairs)]


def speed_row(
    name: str,
    reference: str,
    times: Sequence[tuple[float, float]],
    amount: float,
    unit: str,
    *,
    reference_amount: float | None = None,
    target: float | None = None,
    limit: str = "",
) -> Row:
    """Return a row of speeds: `amount` per measured time; the reference may process another amount."""
    theirs = reference_amount or amount
    speeds = [(amount / a, theirs / b) for a, b in times]
    return Row(
        name,
        reference,
        statistics.median(a for a, _ in speeds),
        statistics.median(b for _, b in speeds),
        unit,
        [a / b for a, b in speeds],
        target,
        limit=limit,
    )


def time_row(
    name: str, reference: str, times: Sequence[tuple[float, float]], *, target: float | None, unit: str = "s"
) -> Row:
    """Return a row of times of the same work; the ratio is the reference's time divided by ours."""
    scale = {"s": 1.0, "ms": 1000.0}[unit]
    ours, theirs = (scale * statistics.median(column) for column in zip(*times, strict=True))
    return Row(name, reference, ours, theirs, unit, [b / a for a, b in times], target)
