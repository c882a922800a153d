"""Embeddings in several processes at once, through Ray: on every core or GPU of a machine or cluster."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch

from sslsv.cluster.capacity import Machine, slots_on, total_of
from sslsv.cluster.connect import Cluster, connection, look
from sslsv.config import ResourcesConfig
from sslsv.data.shards import open_recordings
from sslsv.evaluation.embeddings import Crops, Embed, Floats, embed_files, longest_first, parts_of
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.storage import absolute

END_SECONDS = 10.0  # to wait for processes to end; others may have taken their room by then
CPUS = 0.5  # counted for each process, so that the request fits beside whatever Ray itself counts


class EmbeddingWorker:
    """One process with its own copy of the encoder, on one thread or one GPU."""

    def __init__(self, encoder: SpeakerEncoder, crops: Crops | None, has_gpu: bool) -> None:
        torch.set_num_threads(1)  # processes side by side are faster than threads that share one recording
        if has_gpu:
            encoder.model.to("cuda")
        self.encoder, self.crops = encoder, crops

    def embed(self, paths: list[str], root: str) -> tuple[Floats, dict[int, str]]:
        """See `embed_files`."""
        return embed_files(self.encoder, paths, root, self.crops)


def fitting_processes(has_gpu: bool, cluster: Cluster) -> int:
    """How many processes to start: one per GPU, else per CPU, where there is room."""
    slots = slots_on(list(cluster.free.values()), CPUS, has_gpu)
    most = int(total_of(cluster.machines.values(), "GPU" if has_gpu else "CPU"))
    return min(slots, most)


@contextmanager
def workers(encoder: SpeakerEncoder, crops: Crops | None, count: int | None) -> Iterator[Embed]:
    """A function that embeds recordings in `count` processes, which end with the context.

    None: one per free GPU of the machine or cluster, else per CPU; of a cluster without any yet, those that
    come with the first machine that its autoscaler adds.  Raises CapacityError when there is no room.
    """
    has_gpu = encoder.device.type == "cuda"
    request = ResourcesConfig(workers=count or 1, gpu=has_gpu, cpus_per_worker=CPUS, cpus_per_data_task=0.01)
    with connection(request, waits_for_growth=True):
        room = ray.available_resources()  # type: ignore[no-untyped-call]
        shared = ray.put(encoder)
        remote = ray.remote(num_cpus=CPUS, num_gpus=1 if has_gpu else 0)(EmbeddingWorker)
        first = count or max(1, fitting_processes(has_gpu, look()))
        actors: list[Any] = [remote.remote(shared, crops, has_gpu) for _ in range(first)]
        pool = ray.util.ActorPool(actors)

        def embed(paths: list[str], root: str) -> tuple[Floats, dict[int, str]]:
            order, place = longest_first(open_recordings(root), paths), absolute(root)
            parts = parts_of([paths[i] for i in order])
            rows, done = np.zeros((len(paths), encoder.embedding_dim), dtype=np.float32), 0
            bad: dict[int, str] = {}
            results = pool.map(lambda actor, part: actor.embed.remote(part, place), parts)
            for part, (embedded, unreadable) in zip(parts, results, strict=True):
                places = order[done : done + len(part)]
                rows[places] = embedded
                bad |= {places[i]: why for i, why in unreadable.items()}
                done += len(part)
                if sys.stderr.isatty():
                    print(f"\rembedded {done} of {len(paths)} recordings", end="", file=sys.stderr)
            return rows, bad

        try:
            yield embed
        finally:
            _end(actors, "GPU" if has_gpu else "CPU", room)


def _end(actors: list[Any], kind: str, room: Machine) -> None:
    """End processes and wait until what they held is free: those of the next encoder need it."""
    for actor in actors:
        ray.kill(actor)
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        if free.get(kind, 0.0) >= room.get(kind, 0.0):
            return
        time.sleep(0.05)
