"""Embeddings in several processes at once, through Ray: on every core or GPU of a machine or cluster."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import ray
import torch

from sslsv.cluster import connection
from sslsv.config import ResourcesConfig
from sslsv.data.shards import open_recordings
from sslsv.embeddings import Crops, Embed, Floats, embed_files, longest_first, parts_of
from sslsv.speaker_encoder import SpeakerEncoder
from sslsv.storage import absolute


class EmbeddingWorker:
    """One process with its own copy of the encoder, on one thread or one GPU."""

    def __init__(self, encoder: SpeakerEncoder, root: str, crops: Crops | None, has_gpu: bool) -> None:
        torch.set_num_threads(1)  # processes side by side are faster than threads that share one recording
        if has_gpu:
            encoder.model.to("cuda")
        self.encoder, self.root, self.crops = encoder, root, crops

    def embed(self, paths: list[str]) -> tuple[Floats, dict[int, str]]:
        """See `embed_files`."""
        return embed_files(self.encoder, paths, self.root, self.crops)


@contextmanager
def workers(encoder: SpeakerEncoder, root: str, crops: Crops | None, count: int | None) -> Iterator[Embed]:
    """A function that embeds recordings below `root` in `count` processes (None: one per GPU, else per core).

    Raises CapacityError, with a sentence, when the machine or cluster has no room for them.
    """
    has_gpu = encoder.device.type == "cuda"
    count = count or (torch.cuda.device_count() if has_gpu else os.cpu_count() or 1)
    # Half a CPU each, so that the request fits beside whatever Ray itself counts.
    request = ResourcesConfig(workers=count, gpu=has_gpu, cpus_per_worker=0.5, cpus_per_data_task=0.01)
    recordings = open_recordings(root)
    with connection(request):
        shared = ray.put(encoder)
        remote = ray.remote(num_cpus=0.5, num_gpus=1 if has_gpu else 0)(EmbeddingWorker)
        actors = [remote.remote(shared, absolute(root), crops, has_gpu) for _ in range(count)]
        pool = ray.util.ActorPool(actors)

        def embed(paths: list[str]) -> tuple[Floats, dict[int, str]]:
            order = longest_first(recordings, paths)
            parts = parts_of([paths[i] for i in order])
            rows, done = np.zeros((len(paths), encoder.embedding_dim), dtype=np.float32), 0
            bad: dict[int, str] = {}
            results = pool.map(lambda actor, part: actor.embed.remote(part), parts)
            for part, (embedded, unreadable) in zip(parts, results, strict=True):
                places = order[done : done + len(part)]
                rows[places] = embedded
                bad |= {places[i]: why for i, why in unreadable.items()}
                done += len(part)
                if sys.stderr.isatty():
                    print(f"\rembedded {done} of {len(paths)} recordings", end="", file=sys.stderr)
            return rows, bad

        yield embed
