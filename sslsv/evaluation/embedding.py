"""Embed many recordings once, in several processes if that is faster, and cache the result in the run folder.

The cache has one file per combination of weights, front-end code and precision, named by a digest of these. A
recording counts as unchanged while its path, size and modification time stay the same.
"""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from sslsv.cluster.neighbours import watch_neighbours
from sslsv.config import ResourcesConfig
from sslsv.data.recordings import Packed, open_recordings, split_segment, stamp
from sslsv.evaluation.scoring import Rows
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.display import LiveLine
from sslsv.runs.folder import RunFolder, absolute
from sslsv.settings import refuse_if

# Embeddings (N, D), and {index: reason} of unreadable recordings, whose rows are 0.
Embedded = tuple[Rows, dict[int, str]]
Embed = Callable[[list[str], str], Embedded]  # (paths, root folder) -> embeddings

MANY_RECORDINGS = 1000  # Starting other processes pays off for more recordings only.
PART_RECORDINGS = 16  # recordings per job of a process
CPUS_PER_PROCESS = 0.5  # counted, not enforced: one process per CPU leaves half to what Ray starts itself


def embed_files(encoder: SpeakerEncoder, paths: Sequence[str], root: str) -> Embedded:
    """Embed recordings below a folder, packed or not, in this process."""
    recordings = open_recordings(root)
    return encoder.embedder().embed_recordings(lambda i: recordings.read_whole(paths[i]), len(paths))


class EmbeddingStore:
    """Cache the embeddings of one encoder in the run folder; `embed` computes missing ones."""

    def __init__(self, encoder: SpeakerEncoder, folder: RunFolder, embed: Embed) -> None:
        self.folder, self.embed, self.dim = folder, embed, encoder.model.embedding_dim
        self.file = f"embeddings/{encoder.identity}.npz"
        self.cached: dict[str, tuple[tuple[int, int], Rows]] = {}  # path -> stamp, embedding (D,)
        if folder.has(self.file):
            with np.load(io.BytesIO(folder.read(self.file)), allow_pickle=False) as saved:
                values = zip(map(tuple, saved["stamps"].tolist()), saved["embeddings"], strict=True)
                self.cached = dict(zip(saved["paths"].tolist(), values, strict=True))

    def get(self, paths: Sequence[str], root: str) -> Embedded:
        """Return embeddings of recordings below a folder; only new and changed recordings are embedded."""
        recordings = open_recordings(root)
        locations = [recordings.location(path) for path in paths]
        stamps = [
            recordings.stamp if isinstance(recordings, Packed) else stamp(split_segment(location)[0])
            for location in locations
        ]
        missing = [i for i, key in enumerate(locations) if self.cached.get(key, (None,))[0] != stamps[i]]
        bad: dict[int, str] = {}
        if missing:
            embeddings, unreadable = self.embed([paths[i] for i in missing], root)
            bad = {missing[i]: reason for i, reason in unreadable.items()}
            new = zip(missing, embeddings, strict=True)
            self.cached |= {locations[i]: (stamps[i], row) for i, row in new if i not in bad}
            self._write()
        zeros = np.zeros(self.dim, dtype=np.float32)
        rows = [zeros if i in bad else self.cached[key][1] for i, key in enumerate(locations)]
        return np.reshape(rows, (len(paths), self.dim)), bad

    def _write(self) -> None:
        buffer, entries = io.BytesIO(), self.cached.values()
        stamps, rows = [each for each, _ in entries], [row for _, row in entries]
        np.savez(buffer, paths=list(self.cached), stamps=stamps, embeddings=rows)
        try:
            self.folder.write(self.file, buffer.getvalue())
        except OSError as error:  # The run folder may be read-only.
            print(f"the embeddings can't be cached for the next time: {error}", file=sys.stderr)


class EmbeddingProcess:
    """Embed in one process with its own copy of the encoder, on one thread or one GPU."""

    def __init__(self, encoder: SpeakerEncoder, device: str) -> None:
        torch.set_num_threads(1)  # Parallel processes are faster than threads that share a recording.
        encoder.model.to(device)
        self.encoder = encoder

    def embed(self, number: int, paths: list[str], root: str) -> tuple[int, Embedded]:
        """Return the number of a part, as given, and the embeddings of its files below a folder."""
        return number, embed_files(self.encoder, paths, root)


@contextlib.contextmanager
def embedding_by(
    encoder: SpeakerEncoder, count: int, workers: int | None, device: str | None
) -> Iterator[Embed]:
    """Yield a function that embeds about `count` recordings: here if they are few, otherwise in processes.

    The processes start when the function is first called, so none start if all embeddings are cached.
    `workers` None starts one per GPU of the machine or cluster (per CPU for an encoder on a CPU) that is free
    once the first process has started. The function raises CapacityError if there is no room. Raises
    ValueError if `workers` is given and `device` names one GPU.
    """
    is_one_gpu = device is not None and ":" in device
    refuse_if(
        workers is not None and is_one_gpu,
        f"the device {device} is one GPU, but each of {workers} processes needs one of its own: leave out "
        "--workers, or the number of the GPU, and choose GPUs with CUDA_VISIBLE_DEVICES",
    )
    if workers is None and (count <= MANY_RECORDINGS or is_one_gpu):

        def embed_here(paths: list[str], root: str) -> Embedded:
            watch_neighbours()
            with LiveLine(f"embedding {len(paths):,} recordings"):
                return embed_files(encoder, paths, root)

        yield embed_here
        return
    with contextlib.ExitStack() as stack:
        pool = functools.cache(lambda: stack.enter_context(_processes(encoder, workers)))

        def embed(paths: list[str], root: str) -> Embedded:
            # Files are sorted by size, which stands for the length, so that none is opened. Equal lengths
            # share a batch, and with the longest first all processes end at about the same time.
            order = np.argsort(-np.abs(open_recordings(root).sizes(paths)), kind="stable").tolist()
            parts = [order[i : i + PART_RECORDINGS] for i in range(0, len(order), PART_RECORDINGS)]
            rows, bad = np.zeros((len(paths), encoder.model.embedding_dim), np.float32), dict[int, str]()
            folder, jobs = absolute(root), [(i, [paths[j] for j in part]) for i, part in enumerate(parts)]
            # With ordered results, a process would wait for the slowest one before it gets another part.
            results = pool().map_unordered(lambda actor, job: actor.embed.remote(*job, folder), jobs)
            bar = tqdm(results, total=len(parts), desc="embedding", disable=None)  # only on a terminal
            for number, (embeddings, unreadable) in bar:
                rows[parts[number]] = embeddings
                bad |= {parts[number][i]: reason for i, reason in unreadable.items()}
            return rows, dict(sorted(bad.items()))

        yield embed


@contextlib.contextmanager
def _processes(encoder: SpeakerEncoder, workers: int | None) -> Iterator[Any]:
    """Yield a Ray pool of embedding processes; see `embedding_by`."""
    import ray  # Embedding a few recordings must not wait for this import.

    from sslsv.cluster.connect import connection

    device, num_first, cpus = encoder.device.type, workers or 1, CPUS_PER_PROCESS
    has_gpu = device == "cuda"
    request = ResourcesConfig(workers=num_first, gpu=has_gpu, cpus_per_worker=cpus, cpus_per_data_task=0.01)
    with connection(request):
        encoder_ref = ray.put(encoder)
        actor_class = ray.remote(num_cpus=cpus, num_gpus=int(has_gpu))(EmbeddingProcess)
        actors: list[Any] = [actor_class.remote(encoder_ref, device) for _ in range(num_first)]
        if workers is None:
            ray.get(actors[0].__ray_ready__.remote())  # An autoscaler may have to add a machine.
            free = ray.available_resources().get("GPU" if has_gpu else "CPU", 0)  # type: ignore[no-untyped-call]
            actors += [actor_class.remote(encoder_ref, device) for _ in range(int(free))]
        try:
            yield ray.util.ActorPool(actors)
        finally:
            for actor in actors:
                ray.kill(actor)
