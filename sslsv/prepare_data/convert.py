"""Convert a corpus by Ray tasks, on one machine or many: what is there is skipped, failures listed."""

import collections
import contextlib
import functools
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from sslsv.data.audio import find_audio
from sslsv.prepare_data.archives import ArchiveError, open_parts, read_entry
from sslsv.prepare_data.decode import Failure, Item, convert_batch, duration_seconds
from sslsv.prepare_data.disk import check_room, write_whole
from sslsv.prepare_data.progress_line import ProgressLine

_FILES_PER_TASK = 200  # some 15 s of work: starting a task costs milliseconds
_PROBED = 32  # recordings whose duration tells how much room all will take
_BYTES_PER_SECOND = {"wav": 32_000, "flac": 20_000}

Batch = Sequence[Item]


def convert(
    archive: Sequence[Path], items: Sequence[Item], folder: Path, title: str, num_cpus: int | None = None
) -> list[Failure]:
    """Decode every item that is not in `folder` yet; returns the failures.

    Archive, files and folder must be seen by all machines under the same path. Raises OSError when the disk
    is too small or gets full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # In whichever format: a recording that is there in another one is not needed twice.
    present = {os.path.splitext(os.path.relpath(path, folder))[0] for path in find_audio(folder)}
    missing = [item for item in items if os.path.splitext(item[1])[0] not in present]
    if not missing:
        return []
    check_room(folder, _estimated_bytes(archive, missing), f"Converting {title}")
    witness = f".converting-{uuid.uuid4().hex}"
    write_whole(folder / witness, b"")
    work = functools.partial(
        _convert_here,
        archive=[str(path.resolve()) for path in archive],
        folder=str(folder.resolve()),
        witness=witness,
    )
    failures: list[Failure] = []
    num_present = len(items) - len(missing)
    try:
        with (
            ray_connection(num_cpus),
            ProgressLine(f"convert {title}", len(items), already_done=num_present) as progress,
        ):
            for batch, failed in in_parallel(work, missing, _FILES_PER_TASK):
                failures += failed
                progress.add(len(batch))
    finally:
        for old in folder.glob(".converting-*"):  # also those of runs that were killed
            old.unlink(missing_ok=True)
    return sorted(failures)


def in_parallel(
    work: Callable[[Batch], list[Failure]], items: Sequence[Item], batch_size: int
) -> Iterator[tuple[Batch, list[Failure]]]:
    """Yield each batch with the failures in it, as they are done, two tasks for every CPU of the cluster.

    A batch whose process dies is halved until the recording that kills the decoder is alone and listed.
    Raises what the work raises.
    """
    run = ray.remote(num_cpus=1, max_retries=0)(work_niced)
    waiting = collections.deque(
        items[start : start + batch_size] for start in range(0, len(items), batch_size)
    )
    running: dict[ray.ObjectRef[list[Failure]], Batch] = {}
    reference = ray.put(work)
    try:
        while waiting or running:
            cpus = ray.cluster_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
            while waiting and len(running) < 2 * cpus:
                batch = waiting.popleft()
                running[run.remote(reference, batch)] = batch
            done, _ = ray.wait(list(running), num_returns=1)
            for task in done:
                batch = running.pop(task)
                try:
                    yield batch, ray.get(task)
                except RayTaskError as error:
                    raise _sentence_of(error) from None
                except RayError as error:
                    if len(batch) == 1:
                        yield batch, [(batch[0][1], f"its decoder's process died ({type(error).__name__})")]
                    else:
                        middle = len(batch) // 2
                        waiting.extendleft((batch[middle:], batch[:middle]))
    finally:
        for task in running:
            ray.cancel(task)


def _sentence_of(error: RayTaskError) -> OSError:
    if isinstance(error.cause, OSError):
        return error.cause
    reason = str(error.cause).strip().splitlines()[:1] or [""]
    return OSError(
        f"A task of the conversion failed ({type(error.cause).__name__}: {reason[0]}); every machine of the "
        "cluster needs this package and its requirements."
    )


def work_niced(work: Callable[[Batch], list[Failure]], batch: Batch) -> list[Failure]:
    """Run one batch in a Ray process, at a lower priority than everything else on that machine."""
    _lower_priority()
    return work(batch)


@functools.cache
def _lower_priority() -> None:
    os.nice(19)


def _convert_here(batch: Batch, *, archive: list[str], folder: str, witness: str) -> list[Failure]:
    return convert_batch(archive, batch, folder, witness)


@contextlib.contextmanager
def ray_connection(num_cpus: int | None = None) -> Iterator[None]:
    """The Ray cluster of RAY_ADDRESS or running here, else a new one; `num_cpus`: a new one of that size."""
    if ray.is_initialized():
        yield
        return
    from sslsv.cluster.connect import check_address, connect  # seconds of torch, which only this start needs

    address = os.environ.get("RAY_ADDRESS", "")
    if num_cpus is None:
        check_address(address)
    connect(address="local" if num_cpus is not None else None, num_cpus=num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def _estimated_bytes(archive: Sequence[Path], items: Sequence[Item]) -> float:
    """Room that the samples will take, from the durations of a few recordings spread over the corpus."""
    step = max(1, len(items) // _PROBED)
    probed = items[::step]
    seconds = 0.0
    with open_parts(archive) as file:
        for source, _ in probed:
            with contextlib.suppress(OSError, ArchiveError):
                content = Path(source).read_bytes() if isinstance(source, str) else read_entry(file, source)
                seconds += duration_seconds(content)
    kind = Path(items[0][1]).suffix[1:]
    return seconds / len(probed) * len(items) * _BYTES_PER_SECOND[kind]
