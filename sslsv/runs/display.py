"""Show in the terminal how far a run is, as the files of its folder tell."""

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

SILENCE_SECONDS = 120.0  # The user is told that training waits after so long without a new step.
TAIL_BYTES = 2**16  # So much is read from the end of a file; a record has about 1 kB.
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
    """Draw the newest record until the block ends: a bar on a terminal, else one line every 30 seconds.

    Yields a function that prints a sentence above the bar.
    """
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    stop, earlier = threading.Event(), (_newest(folder), len(_tail(folder, "notices.log")))
    thread = threading.Thread(target=_draw, args=(folder, is_shown, console, stop, *earlier), daemon=True)
    thread.start()
    try:
        yield console.print
    finally:
        stop.set()
        thread.join(timeout=5)


def _draw(
    folder: RunFolder,
    is_shown: bool,
    console: Console,
    stop: threading.Event,
    earlier: dict[str, Any],
    num_notices: int,
) -> None:
    """Draw until `stop` is set, but not the record and the notices that an earlier command has left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    step, last_line, last_time, last_news = None, "", 0.0, time.monotonic()
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as bar:
        task_id = bar.add_task("starting", total=None)
        is_last = False
        while not is_last:
            is_last = stop.wait(0.5 if folder.is_local else 5.0)
            values, notices = _newest(folder), _tail(folder, "notices.log")
            for text in notices[num_notices:]:
                console.print(text)
            num_notices = len(notices)
            if values != earlier and values.get("step") != step:
                last_news, step = time.monotonic(), values.get("step")
            elif time.monotonic() - last_news >= SILENCE_SECONDS:
                where = "the first step" if step is None else f"a step after {step}"
                console.print(
                    f"still waiting for {where}, for {SILENCE_SECONDS:.0f} s now: workers, data or a long "
                    "validation; `ray status` shows what the cluster waits for"
                )
                last_news = time.monotonic()
            if not is_shown or step is None:
                continue
            line, total = describe(values), values.get("total_steps")
            bar.update(task_id, description=line, completed=step, total=total)
            is_due = is_last or time.monotonic() - last_time >= 30
            if is_due and line != last_line and not console.is_terminal:
                console.print(f"step {step}/{total}  {line}")
                last_line, last_time = line, time.monotonic()


def describe(values: dict[str, Any]) -> str:
    """Return one line: epoch, loss, learning rate, speed, share of time waiting for data, EER, time left."""
    parts = [form.format(values[key]) for key, form in FORMS.items() if values.get(key) is not None]
    if values.get("seconds_left") is not None:
        parts.append(f"{timedelta(seconds=int(values['seconds_left']))} left")
    return "  ".join(parts)


def _newest(folder: RunFolder) -> dict[str, Any]:
    for line in reversed(_tail(folder, "metrics.jsonl")):
        with contextlib.suppress(ValueError):  # a line that is being written
            record: dict[str, Any] = json.loads(line)
            return record
    return {}


def _tail(folder: RunFolder, name: str) -> list[str]:
    """Return the last lines of a file; none where it is not there, or the storage does not answer."""
    with contextlib.suppress(OSError), folder.filesystem.open_input_file(folder.path(name)) as file:
        file.seek(max(0, file.size() - TAIL_BYTES))
        return bytes(file.read()).decode(errors="replace").splitlines()
    return []
