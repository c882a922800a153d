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
# Share of the time in which threads that could run had no core: 0.01 alone, up to 0.14 beside the training's
# own data processes, 0.3 to 0.8 beside a busy process.
CROWDED = 0.2
# Seconds of passive waiting before threads spin again: only then can it be seen whether others still want the
# cores. The pause doubles each time they do, because spinning beside a busy process wastes most of the time.
FIRST_PAUSE, LAST_PAUSE = 8.0, 128.0


@functools.cache  # once in a process
def watch_neighbours() -> None:
    """Let the threads of this process spin only while no other process wants the cores, from now on.

    Looks every 2 s, in a thread, and beside others every 8 s to 2 minutes whether they have gone. Does
    nothing with one thread, or on a system other than Linux.
    """
    if torch.get_num_threads() > 1 and Path("/proc/thread-self/schedstat").exists():
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    pause = FIRST_PAUSE / 2  # so that the first one is FIRST_PAUSE, however soon it comes
    while True:
        num_looks = 1
        while waiting_share(LOOK_SECONDS) < CROWDED:
            num_looks += 1
        pause = FIRST_PAUSE if num_looks * LOOK_SECONDS > pause else min(2 * pause, LAST_PAUSE)
        with passive_waiting():
            time.sleep(pause)


def waiting_share(seconds: float) -> float:
    """Return the share of the next seconds in which threads of this process waited for a core."""
    before = thread_nanoseconds()
    time.sleep(seconds)
    # Differences are taken per thread: a total over all threads falls when one of them ends.
    after = thread_nanoseconds()
    ran, waited = (sum(t[k] - before.get(i, (0, 0))[k] for i, t in after.items()) for k in (0, 1))
    return waited / max(waited + ran, 1)


def thread_nanoseconds() -> dict[str, tuple[int, int]]:
    """Return the nanoseconds (it ran, it was ready but had no core) of each thread of this process, by id."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            ran, waited, _ = (thread / "schedstat").read_text().split()
            found[thread.name] = int(ran), int(waited)
    return found


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
