"""What faults cost: collected by test_faults.py, printed as a table in markdown."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One fault tried: what came of it, steps that were done again, seconds from the fault to the next step."""

    fault: str
    outcome: str
    steps_lost: int | None = None
    seconds: float | None = None


def table(outcomes: list[Outcome]) -> str:
    """One row for each fault: times tried, outcome, most steps lost, longest time to the next step."""
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    lines = ["| fault | tried | outcome | steps lost | seconds to the next step |", "|---|---|---|---|---|"]
    for fault, tried in by_fault.items():
        lost = [each.steps_lost for each in tried if each.steps_lost is not None]
        seconds = [each.seconds for each in tried if each.seconds is not None]
        ends = "; ".join(sorted({each.outcome for each in tried}))
        most = f"{max(lost)}" if lost else "-"
        longest = f"{max(seconds):.0f}" if seconds else "-"
        lines.append(f"| {fault} | {len(tried)} | {ends} | {most} | {longest} |")
    return "\n".join(lines)
