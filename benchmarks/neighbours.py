"""The training step beside processes that keep cores busy, and beside other trainings."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contestants import MACHINE_THREADS, Contestant, contestant
from benchmarks.corpus import write_corpus
from benchmarks.row import Row, Settings, speed_row
from benchmarks.training import CONFIG, overrides

BUSY = (1, 2, 4)  # processes that compute without a pause
SECONDS = 3.0  # of one measurement, about
OPENMP_SPINS = "300000"  # what GNU's OpenMP does where nothing is set


def rows(settings: Settings) -> Iterator[Row]:
    """Alone against OpenMP's own way of waiting, then beside others against a fair share of the cores."""
    size, pairs = (4, 1) if settings.is_quick else (16, 5)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as trainers:
        root = Path(folder)
        write_corpus(root, ".wav", size)

        def trainer(**environment: str) -> Contestant:
            given = overrides(root, size, "train.precision=bf16", "train.channels_last=true")
            started = contestant("training_step", environment=environment, config=CONFIG, overrides=given)
            return trainers.enter_context(started)

        first, spinning = trainer(), trainer(GOMP_SPINCOUNT=OPENMP_SPINS)
        steps = 1 if settings.is_quick else max(1, round(SECONDS / first.run(4) * 4))

        def row(name: str, against: str, times: list[tuple[float, float]], target: float) -> Row:
            return speed_row(name, against, times, 2 * size * steps, "crops/s", target=target)

        times = [(first.run(steps), spinning.run(steps)) for _ in range(pairs)]
        yield row("train step alone", "waiting as OpenMP does", times, 0.98)
        for count in BUSY:
            # A thread each: what the scheduler would give to threads that never wait for each other.
            share, times = MACHINE_THREADS / (MACHINE_THREADS + count), []
            for _ in range(pairs):
                with busy(count):
                    beside = first.run(steps)
                times.append((beside, first.run(steps) / share))
            yield row(f"train step beside {count} busy", "a fair share of the cores", times, 0.6)
        three, times = [first, trainer(), trainer()], []
        for _ in range(pairs):
            with ThreadPoolExecutor(len(three)) as threads:
                together = max(threads.map(lambda each: each.run(steps), three))
            times.append((together / len(three), first.run(steps)))
        yield row("3 trainings at once, together", "one alone", times, 0.75)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without a pause, each in a session of its own, as another user's are."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
