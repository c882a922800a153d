"""The live line in the terminal: the first worker tells a tiny actor how far it is, the driver draws it.

A worker's own terminal is a log file on some machine, so it can't draw; an actor is reached from anywhere.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SILENCE_SECONDS = 120.0  # without a new step before the user is told that training waits


@ray.remote(num_cpus=0, max_concurrency=2)  # type: ignore[call-overload]  # Ray's stubs lack actor options
class ProgressActor:
    """Holds the newest values and the notices not yet shown."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.notices: list[str] = []

    def update(self, values: dict[str, Any]) -> None:
        """Replace the values of the keys given; the others stay."""
        self.values.update(values)

    def notice(self, text: str) -> None:
        """Queue a line to print above the bar."""
        self.notices.append(text)

    def take(self) -> tuple[dict[str, Any], list[str]]:
        """All values, and the notices since the last call."""
        notices, self.notices = self.notices, []
        return self.values, notices


class ActorBoard:
    """The worker's end: calls return at once, and a lost actor never disturbs training."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def show(self, values: dict[str, Any]) -> None:
        """Send new values to draw."""
        self.actor.update.remote(values)

    def notice(self, text: str) -> None:
        """Send a line to print above the bar."""
        self.actor.notice.remote(text)


def describe(values: dict[str, Any]) -> str:
    """One line: epoch, loss, learning rate, speed, share of time waiting for data, best EER."""
    parts = []
    for key, form in (
        ("epoch", "epoch {:.2f}"),
        ("loss", "loss {:.4f}"),
        ("learning_rate", "lr {:.2e}"),
        ("samples_per_second", "{:.1f} samples/s"),
        ("data_wait_share", "data wait {:.0%}"),
        ("eer", "EER {:.2f}%"),
    ):
        if values.get(key) is not None:
            parts.append(form.format(values[key]))
    return "  ".join(parts)


@contextlib.contextmanager
def live_display(actor: Any, is_shown: bool) -> Iterator[None]:
    """Draw the actor's values until the block ends: a bar on a terminal, else one line every 30 seconds."""
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(actor, is_shown, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _draw(actor: Any, is_shown: bool, stop: threading.Event) -> None:
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[eta]}"),
        console=console,
        disable=not (is_shown and console.is_terminal),
    )
    task = bar.add_task("starting", total=None, eta="")
    last_line, last_time = "", 0.0
    last_news, news = time.monotonic(), None
    with bar:
        is_last = False
        while not is_last:
            is_last = stop.wait(0.5)
            try:
                values, notices = ray.get(actor.take.remote(), timeout=5)
            except Exception:  # the cluster is going down: nothing left to draw
                return
            for text in notices:
                console.print(text)
            if values.get("step") != news or is_last:
                last_news, news = time.monotonic(), values.get("step")
            elif time.monotonic() - last_news >= SILENCE_SECONDS:
                where = "the first step" if news is None else f"a step after {news}"
                console.print(
                    f"still waiting for {where}, for {SILENCE_SECONDS:.0f} s now: workers, data or a long "
                    "validation; `ray status` shows what the cluster waits for"
                )
                last_news = time.monotonic()
            if not is_shown or news is None:
                continue
            step, total = values["step"], values.get("total_steps")
            line, eta = describe(values), _remaining(values)
            bar.update(task, description=line, completed=step, total=total, eta=eta)
            is_due = is_last or time.monotonic() - last_time >= 30
            if is_due and line != last_line and not console.is_terminal:
                console.print(f"step {step}/{total}  {line}  {eta}")
                last_line, last_time = line, time.monotonic()


def _remaining(values: dict[str, Any]) -> str:
    seconds = values.get("seconds_left")
    if seconds is None:
        return ""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"
