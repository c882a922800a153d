"""Copy a folder of recordings to 16 kHz, mono, 16 bits: AAC and other formats, on all CPUs.

The copy has the same folders and names with the suffix of its format.  Files that training can't read (m4a,
wma, webm ...) are decoded too.  Interrupted, the same command goes on: a file that is there is kept.

Exit status: 0 all is copied, 1 some files could not be read, 2 nothing was done.
"""

import argparse
import contextlib
import functools
import io
import logging
import os
import pickle
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt
import soundfile

from sslsv.data.audio import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    AudioError,
    find_audio_files,
    read_whole,
    to_int16,
)
from sslsv.prepare_data.archives import ArchiveError, ZipEntry, open_parts, read_entry
from sslsv.prepare_data.disk import check_room, progress, write_whole

COMPRESSED_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr")  # decoded here, not read in training

Item = tuple[str | ZipEntry, str]  # a file, or its place in the archive; and where its samples go
Failure = tuple[str, str]  # where the samples would have gone; why they could not
Work = TypeVar("Work")
Result = TypeVar("Result")

_BLOCK_FILES = 100  # some 8 s of work: starting a task costs milliseconds
_GROWTH = {"wav": 3.5, "flac": 2.0}  # bytes for one of VoxCeleb2's AAC
_MISSING_SECONDS = 0.2  # what a complete recording may lack: an AAC frame is 64 ms at 16 kHz
_NAMED = 10  # failures that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data convert` takes."""
    parser.add_argument("folder", type=Path, help="what is copied; it stays as it is")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    add_conversion_arguments(parser)


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every conversion."""
    parser.add_argument("--format", choices=("wav", "flac"), default="wav", help="(default: %(default)s)")
    cpus = "work on this machine with N processes, whatever RAY_ADDRESS says"
    parser.add_argument("--cpus", type=int, metavar="N", help=cpus)


def run(options: argparse.Namespace) -> int:
    """Copy what is not copied yet, rewrite the lists, name the failures; returns the exit status."""
    folder, out = Path(os.path.abspath(options.folder)), Path(os.path.abspath(options.out))
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}, which is to be copied: choose a place outside.")
    places: dict[str, str] = {}  # in the copy -> source
    for source in find_audio_files(folder, (*AUDIO_SUFFIXES, *COMPRESSED_SUFFIXES)):
        place = f"{os.path.splitext(os.path.relpath(source, folder))[0]}.{options.format}"
        if places.setdefault(place, source) != source:
            raise ValueError(f"{places[place]} and {source} would both become {place}: rename or move one.")
    if not places:
        raise ValueError(f"{folder} holds no audio files.")
    items = [(source, place) for place, source in places.items()]
    failures = convert([], items, out, str(folder), options.cpus)
    num_done = len(items) - len(failures)
    print(f"{out}: {num_done} of {len(items)} recordings are there; lists of them: prepare_data folder {out}")
    for place, why in failures[:_NAMED]:
        print(f"not copied: {places[place]}: {why}")
    if failures[_NAMED:]:
        print(f"not copied: {len(failures) - _NAMED} more")
    return int(bool(failures))


def convert(
    archive: Sequence[Path], items: Sequence[Item], out: Path, title: str, cpus: int | None = None
) -> list[Failure]:
    """Write the samples of every item that is not in `out` yet, in the format of its name; returns failures.

    Archive, files and `out` must be seen by all machines under the same path. Raises OSError when the disk
    is too small or gets full.
    """
    out.mkdir(parents=True, exist_ok=True)
    # In whichever format: a recording that is there in another one is not needed twice.
    present = {os.path.splitext(os.path.relpath(path, out))[0] for path in find_audio_files(out)}
    missing = [item for item in items if os.path.splitext(item[1])[0] not in present]
    if not missing:
        return []
    num_bytes = sum(s.compressed_size if isinstance(s, ZipEntry) else os.path.getsize(s) for s, _ in missing)
    check_room(out, _GROWTH[missing[0][1].rpartition(".")[2]] * num_bytes, f"Converting {title}")
    witness = out.resolve() / f".converting-{uuid.uuid4().hex}"
    write_whole(witness, b"")
    paths = tuple(path.resolve() for path in archive)
    work = functools.partial(_convert_one, archive=paths, out=out.resolve(), witness=witness)
    failures: list[Failure] = []
    try:
        with progress(f"convert {title}", len(items), done=len(items) - len(missing)) as bar:
            for i, why in map_files(work, missing, cpus):
                if why != "":
                    failures.append((missing[i][1], why or "its decoder's process died"))
                bar.update()
    finally:
        for old in out.glob(".converting-*"):  # also those of runs that were killed
            old.unlink(missing_ok=True)
    return sorted(failures)


def map_files(
    work: Callable[[Work], Result], items: Sequence[Work], cpus: int | None = None
) -> Iterator[tuple[int, Result | None]]:
    """Yield (place in `items`, result) as Ray tasks finish, in no particular order; None where one died.

    A block whose process dies (a decoder that crashes, no memory left) is done again file by file, so that
    only the file that kills its process is lost. What `work` raises ends everything.
    """
    waiting = dict(enumerate(items))
    if not waiting:
        return
    import ray

    with _ray_connection(cpus):
        num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        for block_files in (max(1, min(_BLOCK_FILES, len(items) // (4 * num_cpus))), 1):
            done = set()
            for i, result in _map_blocks(work, list(waiting.items()), block_files):
                done.add(i)
                yield i, result
            if not done and len(waiting) > block_files:
                raise OSError(
                    "Every process died: every machine of the cluster needs this package, its requirements "
                    "and enough memory."
                )
            waiting = {i: item for i, item in waiting.items() if i not in done}
            if not waiting:
                return
    yield from ((i, None) for i in waiting)


def _map_blocks(
    work: Callable[[Work], Result], items: list[tuple[int, Work]], block_files: int
) -> Iterator[tuple[int, Result]]:
    import ray.data

    for name in ("ray.data", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    starts = range(0, len(items), block_files)
    rows = [{"block": pickle.dumps(items[start : start + block_files])} for start in starts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `max_retries` gets another place in Ray 2.64
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _work_niced,  # type: ignore[arg-type]
            fn_kwargs={"work": work},
            batch_size=None,
            num_cpus=1,
            max_retries=0,
        )
    dataset.context.max_errored_blocks = -1  # any number: a block is lost when its process dies
    dataset.context.enable_progress_bars = False
    for row in dataset.iter_rows():
        i, result, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield i, result


def _work_niced(batch: dict[str, Any], work: Callable[[Any], Any]) -> dict[str, list[bytes]]:
    """Do the files of a block in a Ray process, at a lower priority than everything else on that machine."""
    os.nice(19)  # again and again for one process: it stays at 19
    results = []
    for i, item in (pair for block in batch["block"] for pair in pickle.loads(block)):
        result, error = None, None
        try:
            result = work(item)
        except OSError as cause:
            error = cause
        except Exception as cause:  # also for lack of a package on this machine
            error = OSError(f"A task failed: {type(cause).__name__}: {cause}")
        results.append(pickle.dumps((i, result, error)))
    return {"result": results}


@contextlib.contextmanager
def _ray_connection(cpus: int | None) -> Iterator[None]:
    """Use the Ray cluster of RAY_ADDRESS or running here, else a new one; `cpus`: a new one of that size."""
    import ray

    if ray.is_initialized():
        yield
        return
    from sslsv.cluster.connect import check_address, connect

    if cpus is None:
        check_address(os.environ.get("RAY_ADDRESS", ""))
    connect(**({} if cpus is None else {"address": "local", "num_cpus": cpus}))
    try:
        yield
    finally:
        ray.shutdown()


def _convert_one(item: Item, *, archive: tuple[Path, ...], out: Path, witness: Path) -> str:
    """Write the samples of one item; returns an empty string, or why the recording can't be used.

    `witness` is a file that the driver has made: a machine that does not see it would write where nobody
    looks, and raises OSError instead.
    """
    if not witness.exists():
        raise OSError(
            f"The machine {socket.gethostname()} does not see {out}: it must be on storage that all machines "
            "of the cluster share, under the same path (or convert on this one: --cpus N)."
        )
    source, place = item
    try:
        if isinstance(source, ZipEntry):
            with open_parts(archive) as file:
                samples = decode(read_entry(file, source))
        elif source.lower().endswith(AUDIO_SUFFIXES):
            samples = to_int16(read_whole(source))
        else:
            samples = decode(Path(source).read_bytes())
    except (AudioError, ArchiveError) as error:
        return str(error)
    except OSError as error:  # this source alone; an error of writing ends the whole conversion
        return f"it can't be read ({error.strerror or error})"
    buffer = io.BytesIO()
    kind = place.rpartition(".")[2].upper()
    soundfile.write(buffer, samples, SAMPLE_RATE, subtype="PCM_16", format=kind)
    write_whole(out / place, buffer.getvalue())
    return ""


def decode(content: bytes) -> npt.NDArray[np.int16]:
    """Return the samples of an audio file in any of FFmpeg's formats, (T,) at 16 kHz, channels averaged.

    Raises AudioError when it is damaged, ends before the length in its header, or has no sound.
    """
    pieces = [np.zeros(0, dtype=np.int16)]
    expected_seconds = 0.0
    try:
        with av.open(io.BytesIO(content)) as container:
            if not container.streams.audio:
                raise AudioError("it has no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # a header that names a codec that FFmpeg lacks
                raise AudioError("its codec is unknown: its header is damaged")
            stream.codec_context.thread_count = 1
            if stream.duration and stream.time_base:
                expected_seconds = float(stream.duration * stream.time_base)
            to_mono = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in (*container.decode(stream), None):
                pieces += [out.to_ndarray()[0] for out in to_mono.resample(frame)]
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AudioError(f"it can't be decoded ({reason})") from error
    samples = np.concatenate(pieces)
    seconds = len(samples) / SAMPLE_RATE
    if not seconds:
        raise AudioError("it holds no samples")
    if seconds < expected_seconds - _MISSING_SECONDS:
        raise AudioError(f"it ends after {seconds:.2f} of {expected_seconds:.2f} s")
    return samples
