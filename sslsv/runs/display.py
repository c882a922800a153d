"""Show progress in the terminal: the name and duration of a stage, then the newest record of a run."""

import contextlib
import json
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sslsv.runs.folder import RunFolder

LINE_SECONDS = 30.0  # between two lines if the output is not a terminal
TAIL_BYTES = 2**16  # read from the end of the file; a record has about 1 kB
FORMS = {
    "epoch": "epoch {:.2f}",
    "loss": "loss {:.4f}",
    "eer": "EER {:.2f} %",
    "left": "{}",
    "samples_per_second": "{:.1f} utterances/s",
    "data_wait_share": "{:.0%} waiting for data",
    "learning_rate": "learning rate {:.2e}",
}


class LiveLine:
    """Show the progress of a `with` block: a bar on a terminal, else a line per stage and per 30 s.

    With `is_shown` False only the sentences of `say` and the notices of a run are printed.
    """

    def __init__(self, stage: str, is_shown: bool = True) -> None:
        self.console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.is_shown, self.start = is_shown, time.monotonic()
        self.stage(stage)
        self._run: RunFolder | None = None
        self._seen: set[str] = set()  # lines of metrics.jsonl processed so far
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self.console.print(sentence)

    def stage(self, name: str) -> None:
        """Set the stage that is shown."""
        self._record: dict[str, Any] = {}
        self._name, self._since = name, time.monotonic()

    def follow(self, run: RunFolder) -> None:
        """Show the records that `run` writes from now on, and print their notices."""
        self._seen, self._run = set(_tail(run)), run

    def __enter__(self) -> "LiveLine":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _draw(self) -> None:
        is_bar, is_last, has_stdout = self.is_shown and self.console.is_terminal, False, sys.stdout.isatty()
        columns = BarColumn(bar_width=12), TextColumn("{task.description}", markup=False)
        # Output that is redirected to a file must not appear on the terminal with the bar.
        bar = Progress(*columns, console=self.console, transient=True, redirect_stdout=has_stdout)
        task_id = bar.add_task("", total=None)
        drawn, drawn_name, drawn_time = "", "", 0.0
        with bar if is_bar else contextlib.nullcontext():
            while not is_last:
                is_last = self._stop.wait(0.5 if self._run is None or self._run.is_local else 5.0)
                self._read_new()
                record, name, now = self._record, self._name, time.monotonic()
                line, text = name, f"{name}  {now - self._since:.0f} s"
                if record:
                    line = text = describe(record)
                bar.update(
                    task_id, description=text, completed=record.get("step"), total=record.get("total_steps")
                )
                is_due = not record or is_last or drawn == drawn_name or now - drawn_time >= LINE_SECONDS
                # A stage that is over before its line is due gets no line.
                if self.is_shown and not is_bar and line != drawn and is_due and (record or not is_last):
                    self.say(f"[{now - self.start:3.0f} s]  {line}")
                    drawn, drawn_name, drawn_time = line, name, now

    def _read_new(self) -> None:
        """Read the records that the run has written since the last call."""
        if self._run is None:
            return
        lines = _tail(self._run)
        num_seen = max((i for i, line in enumerate(lines, 1) if line in self._seen), default=0)
        for text in lines[num_seen:]:
            with contextlib.suppress(ValueError):  # The last line may be incomplete.
                self._record = json.loads(text)
                if "notice" in self._record:
                    self.say(self._record["notice"])
        self._seen = set(lines)


def describe(record: dict[str, Any]) -> str:
    """Return a record as one line; the least important values are last, as narrow terminals cut them off."""
    left = record.get("seconds_left")
    values = {**record, "left": f"{timedelta(seconds=int(left or 0))} left" if left else "tests and report"}
    parts = [form.format(values[key]) for key, form in FORMS.items() if values.get(key) is not None]
    return "  ".join([f"step {record['step']:,}/{record['total_steps']:,}", *parts])


def _tail(folder: RunFolder) -> list[str]:
    """Return the last records as text; none if there are none yet or the storage does not respond."""
    path = folder.path("metrics.jsonl")
    with contextlib.suppress(OSError), folder.filesystem.open_input_file(path) as file:
        file.seek(max(0, file.size() - TAIL_BYTES))
        return bytes(file.read()).decode(errors="replace").splitlines()
    return []
