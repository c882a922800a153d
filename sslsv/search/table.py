"""The live table in the terminal: what runs, what is best so far."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sslsv.search.history import standing
from sslsv.search.sweep import Sweep

ROWS = 12  # of the best that are shown, besides those that run


@contextlib.contextmanager
def live_table(sweep: Sweep) -> Iterator[Callable[[], None]]:
    """Show the sweep until the block ends; gives the function to call when something has changed.

    On a terminal a table that is drawn anew; elsewhere a line for every leg that ends.
    """
    console = Console(file=sys.stderr, soft_wrap=not sys.stderr.isatty(), highlight=False)
    if console.is_terminal:
        with Live(draw(sweep), console=console, auto_refresh=False) as live:
            yield lambda: live.update(draw(sweep), refresh=True)
        return
    start, told = time.monotonic(), len(sweep.folder.history.outcomes)

    def tell() -> None:
        nonlocal told
        for outcome in sweep.folder.history.outcomes[told:]:
            value = sweep.folder.value(outcome)
            shown = f"{sweep.folder.metric} {value:.4g}" if value is not None else outcome.why
            minutes = (time.monotonic() - start) / 60
            epoch = sweep.rungs[outcome.rung]
            console.print(
                f"{minutes:6.1f} min  trial {outcome.index:4d}  epoch {epoch:4d}  {outcome.state}  {shown}"
            )
        told = len(sweep.folder.history.outcomes)

    yield tell


def draw(sweep: Sweep) -> Table:
    """The table as it is now: best first, then what runs for the first time."""
    history, metric = sweep.folder.history, sweep.folder.metric
    running = {index: rung for index, rung in sweep.running}
    best = standing(history)
    ended = sum(outcome.index not in running for outcome in best)
    title = f"{sweep.folder.folder.name}: {ended} of {sweep.num_trials} trials, {len(running)} running"
    table = Table(title=title, title_justify="left")
    for column in ("trial", "epoch", metric, "state", "settings"):
        table.add_column(column, overflow="fold" if column == "settings" else "ellipsis")
    shown = [outcome for place, outcome in enumerate(best) if place < ROWS or outcome.index in running]
    for outcome in shown:
        value = sweep.folder.value(outcome)
        is_running = outcome.index in running
        epoch = f"{sweep.rungs[outcome.rung]}" + (
            f" > {sweep.rungs[running[outcome.index]]}" if is_running else ""
        )
        state = (
            "running" if is_running else "stopped" if outcome.index in history.stopped() else outcome.state
        )
        number = "" if value is None else f"{value:.4g}"
        table.add_row(str(outcome.index), epoch, number, state, describe(sweep, outcome.index))
    for index in sorted(running.keys() - {outcome.index for outcome in best}):
        latest = [
            record[metric] for record in sweep.folder.records_of(index) if record.get(metric) is not None
        ]
        number = f"{latest[-1]:.4g}" if latest else ""
        table.add_row(
            str(index), f"> {sweep.rungs[running[index]]}", number, "running", describe(sweep, index)
        )
    return table


def describe(sweep: Sweep, index: int) -> str:
    """The settings of a trial, short: the last parts of their keys."""
    settings = sweep.folder.suggestions[index]
    parts = []
    for key, value in settings.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        parts.append(f"{key.rpartition('.')[2]}={shown}")
    return " ".join(parts)
