"""Keep the threads of a training from spinning while other processes need the cores.

After each operation, PyTorch's threads (GNU OpenMP) wait for one another by spinning for some milliseconds.
This is fastest on an otherwise idle machine. Next to a busy process, threads that have finished occupy the
core that the last thread needs, and a step can take ten times as long. GNU OpenMP hardly spins if a process
has more threads than CPUs (GOMP_SPINCOUNT in its manual), so adding or removing idle threads turns spinning
off or on. The number of computing threads does not change, so results are the same bit for bit.
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
# Share of the time in which threads that could run had no core. Measured: 0.01 on an idle machine, up to 0.14
# next to the training's own data processes, 0.3 to 0.8 next to a busy process.
CROWDED = 0.2
# Seconds of passive waiting before threads spin again. Only while they spin can the needs of others be
# measured. The pause doubles each time the cores are still needed, because spinning next to a busy process
# wastes most of the time.
FIRST_PAUSE, LAST_PAUSE = 8.0, 128.0


@functools.cache  # once in a process
def watch_neighbours() -> None:
    """Start a thread that lets this process spin only while no other process needs the cores.

    It measures every 2 s. While other processes need the cores, it checks every 8 s to 2 minutes whether they
    still do. Does nothing if PyTorch has one thread, or on a system other than Linux.
    """
    if torch.get_num_threads() > 1 and Path("/proc/thread-self/schedstat").exists():
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    pause = FIRST_PAUSE / 2  # so that the first pause is FIRST_PAUSE, also after a single look
    while True:
        num_looks = 1
        while waiting_share(LOOK_SECONDS) < CROWDED:
            num_looks += 1
        # Doubled, unless the cores stayed free for longer than the last pause.
        pause = FIRST_PAUSE if num_looks * LOOK_SECONDS > pause else min(2 * pause, LAST_PAUSE)
        with passive_waiting():
            time.sleep(pause)


def waiting_share(seconds: float) -> float:
    """Return the share of the next `seconds` in which threads of this process waited for a core."""
    before = thread_nanoseconds()
    time.sleep(seconds)
    # Differences are taken per thread, because a total over all threads falls when one of them ends.
    after = thread_nanoseconds()
    ran, waited = (sum(t[k] - before.get(thread, (0, 0))[k] for thread, t in after.items()) for k in (0, 1))
    return waited / max(waited + ran, 1)


def thread_nanoseconds() -> dict[str, tuple[int, int]]:
    """Return thread id -> (nanoseconds running, nanoseconds ready without a core) for this process."""
    times = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            ran, waited, _ = (thread / "schedstat").read_text().split()
            times[thread.name] = int(ran), int(waited)
    return times


@contextlib.contextmanager
def passive_waiting() -> Iterator[None]:
    """Hold enough idle OpenMP threads to keep the other threads from spinning."""
    team_size, end = torch.get_num_threads(), threading.Event()
    num_teams = len(os.sched_getaffinity(0)) // (team_size - 1) + 1  # each thread starts team_size - 1 more
    ready = threading.Barrier(num_teams + 1)

    def hold() -> None:
        torch.ones(team_size << 15).add_(1)  # large enough for PyTorch to use all threads of a team
        ready.wait()
        end.wait()

    for _ in range(num_teams):
        threading.Thread(target=hold, daemon=True).start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
