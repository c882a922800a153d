"""Embeddings of many recordings, whole or in crops: made once, kept on disk, by many processes if need be.

One file per set of weights, front end, precision and crops, named by a digest of them all. A recording is the
same while its path, size and time of change are.
"""

import contextlib
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from sslsv.config import ResourcesConfig
from sslsv.data.audio import SAMPLE_RATE, AudioError, Waveform
from sslsv.data.recordings import Packed, Recordings, open_recordings
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.folder import RunFolder, absolute, is_uri

Floats = npt.NDArray[np.float32]
# An Embed takes paths and their folder; it returns embeddings (N, D) and why some recordings can't be read.
Embed = Callable[[list[str], str], tuple[Floats, dict[int, str]]]

SUBFOLDER = "embeddings"
MANY_RECORDINGS = 1000  # More recordings than these are worth the start of other processes.
PART_RECORDINGS = 16  # recordings that a process embeds at a time
END_SECONDS = 10.0  # Ray frees the resources of ended processes within it, unless another job takes them.
CPUS_PER_PROCESS = 0.5  # Ray only counts CPUs: a half leaves room for what it starts itself.


@dataclass(frozen=True)
class Crops:
    """Cut evenly spaced crops of a recording, which are embedded apart; usual are 10 of 4 s."""

    count: int = 10
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds < 0.1:
            raise ValueError(
                f"{self.count} crops of {self.seconds:g} seconds are too little: ask for at least 1, of 0.1 s"
            )

    def of(self, waveform: Waveform) -> list[Waveform]:
        """Return the crops of a waveform (T,); one that is too short is repeated first."""
        length = round(self.seconds * SAMPLE_RATE)
        if len(waveform) < length:
            waveform = np.resize(waveform, length)
        starts = np.linspace(0, len(waveform) - length, self.count).round().astype(int)
        return [waveform[start : start + length] for start in starts]


def embed_recordings(
    encoder: SpeakerEncoder, read: Callable[[int], Waveform], count: int, crops: Crops | None
) -> tuple[Floats, dict[int, str]]:
    """Return embeddings (count, D) of recordings `read(i)`, and why some can't be read (their rows are 0).

    With crops, a row is the mean of the unit embeddings: its dot product with another's is the mean cosine of
    all pairs of crops.
    """
    embedder = encoder.embedder()
    if crops is None:
        return embedder.embed_recordings(read, count)
    rows = np.zeros((count, encoder.model.embedding_dim), dtype=np.float32)
    bad: dict[int, str] = {}
    for i in range(count):
        try:
            embedded = embedder.embed(crops.of(read(i)))
        except AudioError as error:
            bad[i] = str(error)
            continue
        rows[i] = torch.nn.functional.normalize(embedded, dim=1).mean(0).numpy()
    return rows, bad


def embed_files(
    encoder: SpeakerEncoder, paths: Sequence[str], root: str, crops: Crops | None = None
) -> tuple[Floats, dict[int, str]]:
    """Return embeddings (N, D) of recordings below a folder, packed or not; see `embed_recordings`."""
    recordings = open_recordings(root)
    return embed_recordings(encoder, lambda i: recordings.read_whole(paths[i]), len(paths), crops)


class EmbeddingStore:
    """Keep embeddings by one encoder in the run folder; `embed` makes those that are not there.

    A folder that can't be written to is no error: the embeddings are made again, and a line says so.
    """

    def __init__(self, encoder: SpeakerEncoder, folder: RunFolder, crops: Crops | None, embed: Embed) -> None:
        self.folder, self.crops, self.embed = folder, crops, embed
        key = hashlib.sha256(f"{encoder.identity} {crops}".encode()).hexdigest()[:16]
        self.file = f"{SUBFOLDER}/{key}.npz"
        self.dim = encoder.model.embedding_dim
        self.known: dict[str, tuple[tuple[int, int], Floats]] = {}  # path: its stamp, embedding (D,)
        if folder.has(self.file):
            self._read()

    def get(self, paths: Sequence[str], root: str) -> tuple[Floats, dict[int, str]]:
        """Return embeddings (N, D) of files below a folder, and why some can't be read (rows of 0)."""
        recordings = open_recordings(root)
        places = map(recordings.location, paths)
        full = [place if is_uri(place) else os.path.realpath(place) for place in places]
        stamps = [_stamp(recordings, path) for path in full]
        missing = [i for i, path in enumerate(full) if self.known.get(path, (None,))[0] != stamps[i]]
        bad: dict[int, str] = {}
        if missing:
            made, unreadable = self.embed([paths[i] for i in missing], root)
            bad = {missing[i]: why for i, why in unreadable.items()}
            rows = zip(missing, made, strict=True)
            self.known |= {full[i]: (stamps[i], row) for i, row in rows if i not in bad}
            self._write()
        result = np.zeros((len(paths), self.dim), dtype=np.float32)
        for i in set(range(len(paths))) - bad.keys():
            result[i] = self.known[full[i]][1]
        return result, bad

    def _read(self) -> None:
        try:
            with np.load(io.BytesIO(self.folder.read(self.file)), allow_pickle=False) as saved:
                values = zip(map(tuple, saved["stamps"].tolist()), saved["embeddings"], strict=True)
                self.known = dict(zip(saved["paths"].tolist(), values, strict=True))
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:  # a file cut short, say
            print(f"embeddings in {self.file} can't be read ({error}) and are made again", file=sys.stderr)

    def _write(self) -> None:
        buffer, stamps = io.BytesIO(), [stamp for stamp, _ in self.known.values()]
        rows = np.array([row for _, row in self.known.values()], dtype=np.float32)
        np.savez(buffer, paths=np.array(list(self.known)), stamps=np.array(stamps), embeddings=rows)
        try:
            self.folder.write(self.file, buffer.getvalue())
        except OSError as error:
            print(f"embeddings are not kept for the next time: {error}", file=sys.stderr)


def _stamp(recordings: Recordings, path: str) -> tuple[int, int]:
    # Size and time of change of a file, or of its packed folder's index; (-1, -1) for no file.
    if isinstance(recordings, Packed):
        return recordings.stamp
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


class EmbeddingProcess:
    """Embed in one process with its own copy of the encoder, on one thread or one GPU."""

    def __init__(self, encoder: SpeakerEncoder, crops: Crops | None, has_gpu: bool) -> None:
        torch.set_num_threads(1)  # processes side by side are faster than threads that share one recording
        if has_gpu:
            encoder.model.to("cuda")
        self.encoder, self.crops = encoder, crops

    def embed(self, paths: list[str], root: str) -> tuple[Floats, dict[int, str]]:
        """Embed files below a folder; see `embed_files`."""
        return embed_files(self.encoder, paths, root, self.crops)


@contextlib.contextmanager
def embedding_by(
    encoder: SpeakerEncoder, crops: Crops | None, count: int, workers: int | None, device: str | None
) -> Iterator[Embed]:
    """Yield a function that embeds about `count` recordings: here if they are few, else in processes.

    `workers` None starts one process per GPU of the machine or cluster that is free when the first process
    has started, or per CPU where the encoder is on a CPU. Raises CapacityError when there is no room,
    ValueError where `device` names one GPU, which several processes can't share.
    """
    is_one_gpu = device is not None and ":" in device
    if workers is not None and is_one_gpu:
        raise ValueError(
            f"the device {device} is one GPU, while each of {workers} processes takes one of its own: leave "
            "out --workers, or name no GPU and choose with CUDA_VISIBLE_DEVICES"
        )
    if workers is None and (count <= MANY_RECORDINGS or is_one_gpu):
        yield lambda paths, root: embed_files(encoder, paths, root, crops)
        return
    import ray  # few recordings need not wait for it

    from sslsv.cluster.connect import connection

    has_gpu = encoder.device.type == "cuda"
    kind, cpus = "GPU" if has_gpu else "CPU", CPUS_PER_PROCESS
    request = ResourcesConfig(
        workers=workers or 1, gpu=has_gpu, cpus_per_worker=cpus, cpus_per_data_task=0.01
    )

    def num_free() -> float:
        return float(ray.available_resources().get(kind, 0.0))  # type: ignore[no-untyped-call]

    with connection(request):
        before, shared = num_free(), ray.put(encoder)
        remote = ray.remote(num_cpus=cpus, num_gpus=1 if has_gpu else 0)(EmbeddingProcess)
        actors: list[Any] = [remote.remote(shared, crops, has_gpu) for _ in range(workers or 1)]
        if workers is None:
            ray.get(actors[0].__ray_ready__.remote())  # an autoscaler may have to add its machine first
            actors += [remote.remote(shared, crops, has_gpu) for _ in range(int(num_free()))]
        pool = ray.util.ActorPool(actors)

        def embed(paths: list[str], root: str) -> tuple[Floats, dict[int, str]]:
            order, place = longest_first(open_recordings(root), paths), absolute(root)
            parts = [order[i : i + PART_RECORDINGS] for i in range(0, len(order), PART_RECORDINGS)]
            rows, bad = np.zeros((len(paths), encoder.model.embedding_dim), np.float32), dict[int, str]()
            results = pool.map(lambda actor, part: actor.embed.remote([paths[i] for i in part], place), parts)
            for part, (embedded, unreadable) in zip(parts, results, strict=True):
                rows[part] = embedded
                bad |= {part[i]: why for i, why in unreadable.items()}
                if sys.stderr.isatty():
                    print(
                        f"embedded recordings of {len(paths)}: {rows.any(1).sum()}", end="\r", file=sys.stderr
                    )
            return rows, bad

        try:
            yield embed
        finally:
            for actor in actors:
                ray.kill(actor)
            # The processes of the next encoder need the resources of these.
            deadline = time.monotonic() + END_SECONDS
            while num_free() < before and time.monotonic() < deadline:
                time.sleep(0.05)


def longest_first(recordings: Recordings, paths: Sequence[str]) -> list[int]:
    """Order recordings by falling length, so that equal ones are neighbours and can be embedded together.

    The longest come first so that processes side by side end at about the same time; unreadable ones, last.
    """
    lengths = np.zeros(len(paths), dtype=np.int64)
    for i, path in enumerate(paths):
        with contextlib.suppress(AudioError), recordings.open(path) as recording:
            lengths[i] = recording.num_samples
    order: list[int] = np.argsort(-lengths, kind="stable").tolist()
    return order
