"""How far a long step is: a live bar with rate and time left at a terminal, a line now and then in a log."""

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_SECONDS_BETWEEN_LINES = 30.0
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def readable_bytes(count: float) -> str:
    """A number of bytes with three digits and its unit."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def readable_seconds(seconds: float) -> str:
    """A duration as `1:02:03`, `2:03` or `3 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


class ProgressLine:
    """Counts files or bytes done; `add` may be called from several threads. A context manager.

    Rate and time left are those of this run: what was there already counts as done, but not as speed.
    """

    def __init__(self, title: str, total: int | None, unit: str = "files", already_done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._already_done = already_done, already_done
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(24), console=console)
            self._task = self._bar.add_task(title, total=total, completed=already_done)

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=self.describe())
            self._bar.stop()

    def add(self, count: int = 1) -> None:
        """Count more as done."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done, description=self.describe())
            elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = now
                print(self.describe(), file=sys.stderr, flush=True)

    def describe(self) -> str:
        """One line: how much of how much, how fast, how long still."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        rate = (self.done - self._already_done) / seconds
        text = f"{self.title}: {self._amount(self.done)}"
        if self.total is not None:
            text += f" of {self._amount(self.total)}"
        text += f", {self._amount(rate)}/s" if self.unit == "bytes" else f", {rate:,.0f} {self.unit}/s"
        if self.total is not None and rate > 0:
            text += f", {readable_seconds(max(0.0, self.total - self.done) / rate)} left"
        return text

    def _amount(self, count: float) -> str:
        return readable_bytes(count) if self.unit == "bytes" else f"{count:,.0f}"
