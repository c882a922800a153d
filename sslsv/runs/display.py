"""Show in the terminal how far a run is, as the newest records of its metrics.jsonl tell."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sslsv.runs.folder import RunFolder

LINE_SECONDS = 30.0  # between two lines where there is no terminal for a bar
TAIL_BYTES = 2**16  # So much is read from the end of the file; a record has about 1 kB.
FORMS = {
    "epoch": "epoch {:.2f}",
    "loss": "loss {:.4f}",
    "learning_rate": "lr {:.2e}",
    "samples_per_second": "{:.1f} samples/s",
    "data_wait_share": "data wait {:.0%}",
    "eer": "EER {:.2f}%",
}


@contextlib.contextmanager
def live_display(folder: RunFolder, is_shown: bool) -> Iterator[Callable[[str], None]]:
    """Draw the newest record until the block ends: a bar on a terminal, else now and then a line.

    Prints the notices of all records, and yields a function that prints a sentence above the bar.
    """
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    stop, earlier = threading.Event(), set(_tail(folder))
    thread = threading.Thread(target=_draw, args=(folder, is_shown, console, stop, earlier), daemon=True)
    thread.start()
    try:
        yield console.print
    finally:
        stop.set()
        thread.join(timeout=5)


def _draw(folder: RunFolder, is_shown: bool, console: Console, stop: threading.Event, seen: set[str]) -> None:
    """Draw until `stop` is set; lines of metrics.jsonl that were `seen` are not drawn."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    record: dict[str, Any] = {}
    last_line, last_time, is_last = "", 0.0, False
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as bar:
        task_id = bar.add_task("starting", total=None)
        while not is_last:
            is_last = stop.wait(0.5 if folder.is_local else 5.0)
            lines = _tail(folder)
            num_seen = max((i for i, line in enumerate(lines, 1) if line in seen), default=0)
            for text in lines[num_seen:]:
                with contextlib.suppress(ValueError):  # a line that is being written
                    record = json.loads(text)
                    if "notice" in record:
                        console.print(record["notice"])
            seen = set(lines)
            if not is_shown or not record:
                continue
            step, total, line = record["step"], record.get("total_steps"), describe(record)
            bar.update(task_id, description=line, completed=step, total=total)
            is_due = is_last or time.monotonic() - last_time >= LINE_SECONDS
            if is_due and line != last_line and not console.is_terminal:
                console.print(f"step {step}/{total}  {line}")
                last_line, last_time = line, time.monotonic()


def describe(record: dict[str, Any]) -> str:
    """Return one line: epoch, loss, learning rate, speed, share of time waiting for data, EER, time left."""
    parts = [form.format(record[key]) for key, form in FORMS.items() if record.get(key) is not None]
    if record.get("seconds_left") is not None:
        parts.append(f"{timedelta(seconds=int(record['seconds_left']))} left")
    return "  ".join(parts)


def _tail(folder: RunFolder) -> list[str]:
    """Return the last records as text; none where there are none yet, or the storage does not answer."""
    path = folder.path("metrics.jsonl")
    with contextlib.suppress(OSError), folder.filesystem.open_input_file(path) as file:
        file.seek(max(0, file.size() - TAIL_BYTES))
        return bytes(file.read()).decode(errors="replace").splitlines()
    return []
