"""One function over many files in niced one-thread processes; what kills a process costs one file.

Processes of this machine rather than Ray tasks: the files lie on its disks, which soon are the limit, and
there is nothing to start or to connect to.
"""

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # files handed over at a time
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], num_processes: int
) -> Iterator[list[tuple[int, Result | None]]]:
    """Yield lists of (place in `items`, result) as they are done, in no particular order.

    The result of an item whose process died (a decoder that crashes, no memory left) is None. `function`
    must be importable, and what it raises ends everything. A few items per process are under way at a time,
    however many there are.
    """
    call = functools.partial(_call, function)
    waiting = collections.deque(
        range(start, min(start + _CHUNK, len(items))) for start in range(0, len(items), _CHUNK)
    )
    while waiting:
        running: dict[Future[list[Result]], range] = {}
        suspects: list[int] = []
        with _pool(num_processes) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * num_processes:
                        future = pool.submit(call, [items[i] for i in waiting[0]])
                        running[future] = waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        results = future.result()
                        yield list(zip(running.pop(future), results, strict=True))
            except BrokenProcessPool:
                suspects = sorted(i for chunk in running.values() for i in chunk)
        yield from _one_by_one(call, items, suspects)


def _one_by_one(
    call: Callable[[list[Item]], list[Result]], items: Sequence[Item], suspects: list[int]
) -> Iterator[list[tuple[int, Result | None]]]:
    waiting = collections.deque(suspects)
    while waiting:
        with _pool(1) as pool:
            try:
                while waiting:
                    result = pool.submit(call, [items[waiting[0]]]).result()[0]
                    yield [(waiting.popleft(), result)]
            except BrokenProcessPool:
                yield [(waiting.popleft(), None)]


def _call(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


@contextlib.contextmanager
def _pool(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    earlier = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(_THREADS)  # read by the libraries when a process starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sslsv.data.audio"])  # imported once, not by every process
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_settle)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in earlier.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _settle() -> None:
    os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends these
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
