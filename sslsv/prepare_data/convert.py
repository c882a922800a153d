"""Copy a folder of recordings to 16 kHz, mono, 16 bits, from AAC and other formats, on all CPUs.

The copy has the same folders and names, with the suffix of its format.  It holds the samples that training
gets from the originals, and is faster to read.  The same command continues after an interruption; existing
files are kept.

Exit status: 0 all files are copied, 1 some files could not be read, 2 an error stopped the command.
"""

import argparse
import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sslsv.data.audio import AudioError, decode, open_audio
from sslsv.data.audio_files import SEEKABLE_SUFFIXES, find_audio_files
from sslsv.data.recordings import stamp
from sslsv.prepare_data.archives import DAMAGED
from sslsv.prepare_data.disk import check_space, progress, sample_bytes, write_audio, write_whole
from sslsv.settings import command_name

Item = tuple[str | zipfile.ZipInfo, str]  # (file or archive member, path of its copy)
Work = TypeVar("Work")
Result = TypeVar("Result")

_BLOCK_FILES = 100  # files per task, some 8 s of work; starting a task costs milliseconds
_AAC_GROWTH = 3.5  # bytes of samples per byte of VoxCeleb2's AAC
_FLAC_SHARE = 0.6  # bytes of FLAC per byte of samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data convert`."""
    parser.add_argument("folder", type=Path, help="folder to copy; it stays unchanged")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    add_conversion_arguments(parser)


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all conversions have."""
    parser.add_argument("--format", choices=("wav", "flac"), default="wav", help="(default: %(default)s)")
    parser.add_argument("--cpus", type=int, metavar="N", help="number of processes (default: one per CPU)")


def run(options: argparse.Namespace) -> int:
    """Copy all files that are not copied yet, and name unreadable files; return the exit status."""
    folder, out = Path(os.path.abspath(options.folder)), Path(os.path.abspath(options.out))
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}, the folder to copy: choose a folder outside.")
    source_of: dict[str, str] = {}  # path in the copy -> source
    for source in find_audio_files(folder)[0]:
        copy = f"{os.path.splitext(os.path.relpath(source, folder))[0]}.{options.format}"
        if source_of.setdefault(copy, source) != source:
            raise ValueError(f"{source_of[copy]} and {source} would both become {copy}: rename or move one.")
    if not source_of:
        raise ValueError(f"{folder} holds no audio files.")
    items = [(source, copy) for copy, source in source_of.items()]
    is_complete = convert(items, out, str(folder), options.cpus)
    print(f"lists of the copy: {command_name('prepare_data')} folder {out}")
    return int(not is_complete)


def convert(
    items: Sequence[Item], out: Path, title: str, cpus: int | None, archive: zipfile.ZipFile | None = None
) -> bool:
    """Write the samples of every item that is not in `out` yet; return whether all are there now.

    The suffix of an item's path sets the format. OUT_failures.txt names unreadable files. Raises OSError if
    the disk is too small or becomes full.
    """
    out.mkdir(parents=True, exist_ok=True)
    # All formats count: a recording that exists in another format is not written again.
    copies = [path for path in find_audio_files(out)[0] if path.lower().endswith(SEEKABLE_SUFFIXES)]
    present = {os.path.splitext(os.path.relpath(path, out))[0] for path in copies}
    missing = [item for item in items if os.path.splitext(item[1])[0] not in present]
    sizes = {source: stamp(source)[0] for source, _ in missing if isinstance(source, str)}
    archive_bytes = sum(source.compress_size for source, _ in missing if not isinstance(source, str))
    num_bytes = sample_bytes(sizes, open_audio) + _AAC_GROWTH * archive_bytes
    is_flac = items[0][1].endswith(".flac")
    check_space(out, num_bytes * (_FLAC_SHARE if is_flac else 1), f"Converting {title}")

    def load(item: Item) -> tuple[str | bytes, Path]:
        source, path = item
        content: str | bytes = b""
        with contextlib.suppress(*DAMAGED):
            content = archive.read(source) if archive else str(source)
        return content, out.resolve() / path

    failures = []
    with progress(f"convert {title}", len(items), done=len(items) - len(missing)) as bar:
        for i, reason in map_files(_convert_one, missing, cpus, load):
            if reason != "":
                failures.append(f"{missing[i][1]}: {reason or 'it killed the process that decodes it'}\n")
            bar.update()
    print(f"{out}: {len(items) - len(failures):,} of {len(items):,} recordings are there.")
    report = out.with_name(f"{out.name}_failures.txt")
    report.unlink(missing_ok=True)
    if failures:
        write_whole(report, "".join(sorted(failures)).encode())
        print(
            f"{len(failures):,} could not be converted ({min(failures).strip()} ...); all are named in "
            f"{report}, and the same command tries them again."
        )
    return not failures


def map_files(
    work: Callable[[Any], Result],
    items: Sequence[Work],
    cpus: int | None = None,
    load: Callable[[Work], Any] = lambda item: item,
) -> Iterator[tuple[int, Result | None]]:
    """Yield (index in `items`, result) in any order; the result is None if the item killed its process.

    Ray tasks on this machine call `work` with the result of `load(item)`, which runs in this process just
    before. If the process of a block dies (a decoder crashes, no memory is left), the block is repeated item
    by item, so that only the item that kills its process is lost. An error in `work` is raised as OSError.
    """
    if cpus is not None and cpus < 1:
        raise ValueError(f"--cpus is {cpus}: it must be 1 or more.")
    if not items:
        return
    import ray
    import ray.exceptions

    from sslsv.cluster.connect import connect

    was_connected = ray.is_initialized()
    if not was_connected:
        connect(address="local", num_cpus=cpus)
    try:
        num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        task: Any = ray.remote(num_cpus=1, max_retries=0)(_work_niced)
        size = max(1, min(_BLOCK_FILES, len(items) // (4 * num_cpus)))
        waiting = [list(range(len(items))[start : start + size]) for start in range(0, len(items), size)]
        running: dict[Any, list[int]] = {}
        while waiting or running:
            while waiting and len(running) < 2 * num_cpus:
                block = waiting.pop()
                running[task.remote(work, [load(items[i]) for i in block])] = block
            (done, *_), _ = ray.wait(list(running))
            block = running.pop(done)
            try:
                yield from zip(block, ray.get(done), strict=True)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                if len(block) == 1:
                    yield block[0], None
                else:
                    waiting += [[i] for i in block]
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if not isinstance(cause, OSError):  # such as a missing package
                    cause = OSError(f"A task failed: {type(cause).__name__}: {cause}")
                raise cause from None
    finally:
        if not was_connected:
            ray.shutdown()


def _work_niced(work: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """Process a block of items in a Ray process, at the lowest CPU priority."""
    os.nice(19)  # repeated in one process, it stays at 19
    return [work(item) for item in items]


def _convert_one(job: tuple[str | bytes, Path]) -> str:
    """Write the samples of a file, given by path or content; return "", or why it can't be read."""
    source, target = job
    try:
        if isinstance(source, str):
            with open_audio(source) as recording:
                samples = recording.read_int16(0, recording.num_samples)
        else:
            samples, _ = decode(source)
    except AudioError as error:
        return str(error)
    write_audio(target, samples)
    return ""
