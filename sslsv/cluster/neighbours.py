"""Keep the threads of a training from spinning while other processes want the cores.

After each operation PyTorch's threads (GNU OpenMP) wait for one another by spinning for some milliseconds.
Alone on a machine, that is fastest. Beside a busy process, threads that are done occupy the core which the
last one needs, and a step can take ten times as long. GNU OpenMP hardly spins if a process has more threads
than CPUs (its manual, GOMP_SPINCOUNT), so adding or removing idle threads switches between the two. The
number of computing threads stays the same, and so do the bits of results.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

LOOK_SECONDS = 2.0
# Share of the time in which threads that could run had no core: 0.01 alone, 0.3 to 0.8 beside a busy process.
CROWDED, QUIET = 0.15, 0.05


@functools.cache  # once in a process
def watch_neighbours() -> None:
    """Let the threads of this process spin only while no other process wants the cores, from now on.

    Looks every 2 s, in a thread. Does nothing with one thread, or on a system other than Linux.
    """
    if torch.get_num_threads() > 1 and Path("/proc/thread-self/schedstat").exists():
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    shares = waiting_shares()
    while True:
        while next(shares) < CROWDED:
            pass
        with passive_waiting():
            while next(shares) > QUIET:
                pass


def waiting_shares() -> Iterator[float]:
    """Yield, every 2 s, the share of their time in which threads of this process waited for a core."""
    ran, waited = thread_seconds()
    while True:
        time.sleep(LOOK_SECONDS)
        before = ran, waited
        ran, waited = thread_seconds()
        more = waited - before[1]
        yield more / max(more + ran - before[0], 1e-9)


def thread_seconds() -> tuple[float, float]:
    """Return the seconds in which all threads of this process ran, and were ready but had no core."""
    ran = waited = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            fields = (thread / "schedstat").read_text().split()
            ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran / 1e9, waited / 1e9


@contextlib.contextmanager
def passive_waiting() -> Iterator[None]:
    """Hold enough idle OpenMP threads to keep the others from spinning."""
    team, end = torch.get_num_threads(), threading.Event()
    teams = len(os.sched_getaffinity(0)) // (team - 1) + 1  # each thread below brings team - 1 more
    ready = threading.Barrier(teams + 1)

    def hold() -> None:
        torch.ones(team << 15).add_(1)  # large enough for PyTorch to give it to all threads of a team
        ready.wait()
        end.wait()

    for _ in range(teams):
        threading.Thread(target=hold, daemon=True).start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
