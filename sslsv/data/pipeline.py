"""The Ray Data pipeline that turns a Plan into batches; the only file in `data/` that imports Ray.

The input is utterance ids, the output int16 views. One map task makes a block of several batches, and batches
keep the order of the plan. No random numbers are drawn here, so a row has the same bits wherever it is made.
"""

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import ray
import ray.data
from ray.data import DataContext, TaskPoolStrategy
from ray.data.collate_fn import NumpyBatchCollateFn

from sslsv.data.stream import Plan, Rows, rows_of_rank
from sslsv.data.views import ViewMaker

# A data process does not need PyTorch, and starts a second earlier without it.
if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]

# Ray runs another environment in other processes, so training never runs in these single-threaded,
# low-priority processes (`lower_priority` in cluster/connect.py).
_TASK_ENVIRONMENT = {
    "SSLSV_ROLE": "data",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # The process keeps the memory of a block for the next block; returning it page by page takes time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}

_SCHEDULER_PAUSE_SECONDS = 0.02


def train_batches(
    plan: Plan,
    maker: "ViewMaker | ray.ObjectRef[ViewMaker]",
    first_step: int,
    last_step: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    utterances_per_block: int = 1024,
    data_tasks: int | None = None,
    cpus_per_task: float = 0.5,
    is_pinned: bool = False,
) -> Iterator[Batch]:
    """Yield one rank's part of the global batches first_step .. last_step (exclusive), made by Ray tasks.

    `ViewMaker.make_batch` defines the content of a batch. At most `data_tasks` tasks run at a time over all
    ranks, but at least one per rank; None allows as many as the free CPUs. `is_pinned` puts batches into
    pinned memory, from which a GPU copies while the CPU goes on. Closing the generator stops the tasks.
    Raises the AudioError of a task.

    Data processes take seconds to start. Until their first batch is ready, this process makes the batches.
    """
    rows = rows_of_rank(plan.rows(first_step, last_step), plan.batch_size, rank, world_size)
    size = plan.batch_size // world_size
    reference = ray.put(maker) if isinstance(maker, ViewMaker) else maker
    _configure(DataContext.get_current(), data_tasks, cpus_per_task, world_size)
    total, block_size = len(rows["sample"]), max(1, utterances_per_block // size) * size
    bounds, length = [0], size  # the first blocks are short, because training waits for them
    while bounds[-1] < total:
        bounds.append(min(bounds[-1] + length, total))
        length = min(2 * length, block_size)
    # Items, not a table: for a table Ray runs a task that reserves an entire CPU, which may never be free.
    blocks = [{"first": first, "last": last} for first, last in itertools.pairwise(bounds)]
    views = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        _make_block,  # type: ignore[arg-type]
        batch_size=None,
        batch_format="numpy",
        zero_copy_batch=True,
        fn_kwargs={"rows": ray.put(rows), "maker": reference},
        num_cpus=cpus_per_task,
        compute=TaskPoolStrategy(max(1, data_tasks // world_size) if data_tasks else None),
        runtime_env={"env_vars": _TASK_ENVIRONMENT},
    )
    collate = _Collate(is_pinned)
    remote = views.iter_torch_batches(batch_size=size, prefetch_batches=2, collate_fn=collate, device="cpu")

    def local_batches() -> Generator[Batch, None, None]:
        maker: ViewMaker = ray.get(reference)
        for first in range(0, total, size):
            yield collate(maker.make_batch({name: rows[name][first : first + size] for name in rows}))

    try:
        yield from _local_until_ready(iter(remote), local_batches())
    except ray.exceptions.RayError as error:
        raise _cause_of(error) from None


def _local_until_ready(stream: Any, local: Generator[Batch, None, None]) -> Iterator[Batch]:
    # Yields batches of `local`, made here, until Ray Data (`stream`) delivers its first batch, then those of
    # `stream` not yielded yet. `local` ends then: while a trainer waits for data, both would make the same
    # batches forever. Closing this generator closes the stream and stops the tasks.
    first_batch = Future[Any]()

    def fetch() -> None:
        try:
            first_batch.set_result(next(stream))
        except BaseException as error:  # Any error is raised where the batch is used.
            first_batch.set_exception(error)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        for count, batch in enumerate(local, start=1):
            yield batch
            if first_batch.done():
                local.close()  # frees its decoded noises and rirs, and ends this loop
                yield from itertools.islice(itertools.chain([first_batch.result()], stream), count, None)
    finally:
        with contextlib.suppress(Exception):
            first_batch.result(timeout=30)  # a stream that is still starting can't be closed
            stream.close()


def _cause_of(error: BaseException) -> BaseException:
    # Returns the error of the data process itself, without the advice on retries that Ray appends.
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    if error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].partition("\nFailed to ")[0], *error.args[1:])
    return error


def share_maker(maker: ViewMaker) -> "ray.ObjectRef[ViewMaker]":
    """Return a reference to the first rank's maker; all ranks must call this together.

    The maker is put into the object store once, because data processes keep one maker per reference.
    """
    from sslsv.ops import distributed  # imports PyTorch

    if distributed.world_size() == 1:
        return ray.put(maker)
    # Only Ray's own pickler can pickle references.
    pickled = ray.cloudpickle.dumps(ray.put(maker)) if distributed.is_main() else b""  # type: ignore[no-untyped-call]
    reference: ray.ObjectRef[ViewMaker] = ray.cloudpickle.loads(distributed.broadcast_object(pickled))
    return reference


class _Pause:
    # Ray Data's scheduler runs in a thread of the training process. While finished blocks wait for the
    # trainer, its loop would spin, and use an entire core and half of the interpreter's time. A scheduling
    # round need not be faster than training uses up a block.

    def on_execution_step(self, executor: object) -> None:
        time.sleep(_SCHEDULER_PAUSE_SECONDS)

    def _pass(self, executor: object, error: Exception | None = None) -> None:
        pass

    before_execution_starts = after_execution_succeeds = after_execution_fails = _pass


class _Collate(NumpyBatchCollateFn):
    # Copies a batch out of the object store, whose memory is read-only; runs in the prefetching thread.

    def __init__(self, is_pinned: bool) -> None:
        self.is_pinned = is_pinned

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> Batch:  # type: ignore[override]
        import torch

        def copy(column: npt.NDArray[Any]) -> "torch.Tensor":
            dtype = torch.from_numpy(column[:0].copy()).dtype
            tensor = torch.empty(column.shape, dtype=dtype, pin_memory=self.is_pinned)
            tensor.numpy()[...] = column
            return tensor

        return {name: copy(column) for name, column in batch.items()}


def _make_block(
    block: Rows, *, rows: "ray.ObjectRef[Rows]", maker: "ray.ObjectRef[ViewMaker]"
) -> dict[str, npt.NDArray[Any]]:
    part = slice(int(block["first"][0]), int(block["last"][0]))
    return _maker_of(maker).make_batch({name: column[part] for name, column in ray.get(rows).items()})


@functools.lru_cache(maxsize=2)
def _maker_of(reference: "ray.ObjectRef[ViewMaker]") -> ViewMaker:
    # Keeps the maker, with its decoded noises and rirs, for the life of the process.
    maker: ViewMaker = ray.get(reference)
    return maker


def _configure(context: DataContext, data_tasks: int | None, cpus_per_task: float, world_size: int) -> None:
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.raise_original_map_exception = True  # otherwise only the text of the traceback is raised
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    callbacks: list[type] = context.custom_execution_callback_classes
    if _Pause not in callbacks:
        callbacks.append(_Pause)
    # Every rank has its own executor, which would otherwise use all CPUs of the cluster.
    cpus = data_tasks * cpus_per_task if data_tasks else float(ray.cluster_resources().get("CPU", 1.0))  # type: ignore[no-untyped-call]
    limits = context.execution_options.resource_limits.copy(cpu=max(cpus_per_task, cpus / world_size))
    if world_size > 1:
        memory = float(ray.cluster_resources().get("object_store_memory", 0.0))  # type: ignore[no-untyped-call]
        # All executors share the half that Ray would give to each; beyond this half, blocks spill to disk.
        limits = limits.copy(object_store_memory=memory / 2 / world_size)
    context.execution_options.resource_limits = limits
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
