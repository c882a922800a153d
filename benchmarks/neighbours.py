"""Measure the training step while other processes keep cores busy, and while other trainings run."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contestants import MACHINE_THREADS, Contestant
from benchmarks.corpus import write_corpus
from benchmarks.row import Row, Settings, speed_row
from benchmarks.training import CONFIG, overrides

BUSY = (1, 2, 4)  # numbers of processes that compute without a pause
SECONDS = 3.0  # approximate length of one measurement
SPIN = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        end = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < end:
            pass
        os._exit(0)
for _ in range(int(sys.argv[1])):
    os.wait()
print(os.times().children_user + os.times().children_system)
"""


def rows(settings: Settings) -> Iterator[Row]:
    """Compare with threads that always spin while waiting, and with a fair share of the cores."""
    size, pairs = (4, 1) if settings.is_quick else (16, 3)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as trainers:
        root = Path(folder)
        write_corpus(root, ".wav", size)

        def trainer(**job: bool) -> Contestant:
            edits = overrides(root, size, "train.precision=fp32", "train.channels_last=true")
            return trainers.enter_context(Contestant("training_step", config=CONFIG, overrides=edits, **job))

        first, spinning = trainer(), trainer(watches_neighbours=False)
        steps = 1 if settings.is_quick else max(1, round(SECONDS / first.run(4) * 4))
        settling = 1 if settings.is_quick else 2 * steps  # until a change of load is noticed

        def settled(trainer: Contestant) -> float:
            trainer.run(settling)
            return trainer.run(steps)

        def row(name: str, reference: str, times: list[tuple[float, float]], target: float) -> Row:
            return speed_row(name, reference, times, 2 * size * steps, "crops/s", target=target)

        times = [(settled(first), spinning.run(steps)) for _ in range(pairs)]
        yield row("train step alone", "threads that always spin", times, 0.98)
        for count in BUSY:
            share, times, spinning_times = fair_share(count), [], []
            for _ in range(pairs):
                with busy(count):
                    beside = settled(first)
                    spinning_times.append((beside, spinning.run(1) * steps))
                times.append((beside, settled(first) / share))
            yield row(f"train step, busy processes: {count}", "a fair share of the cores", times, 0.6)
            yield row(f"train step, busy processes: {count}", "threads that always spin", spinning_times, 1)
        three, times = [first, trainer(), trainer()], []
        for _ in range(pairs):
            with ThreadPoolExecutor(len(three)) as threads:
                together = max(threads.map(settled, three))
            times.append((together / len(three), settled(first)))
        yield row("3 trainings at once, together", "one alone", times, 0.75)


def fair_share(count: int) -> float:
    """Return the share of the machine that one thread per core gets, next to `count` busy processes.

    The threads never wait for each other. Like a trainer's threads they belong to one session, because the
    kernel may divide the cores among sessions.
    """
    command = [sys.executable, "-c", SPIN, str(MACHINE_THREADS), str(SECONDS)]
    with busy(count):
        result = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=True)
    return float(result.stdout) / SECONDS / MACHINE_THREADS


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` busy processes, each in its own session, like processes of other users."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
