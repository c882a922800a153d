"""Measure the cost of Ray Data: bytes of one iterator, and its time per block, batch and pair."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.corpus import LIST, write_corpus
from benchmarks.data_path import RECIPES
from benchmarks.extrapolation import Cluster
from sslsv.data.lists import Manifest, read_train_lists
from sslsv.data.pipeline import train_batches
from sslsv.data.section import DataConfig
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker

UTTERANCES = 256
TINY_SECONDS = 0.1  # crop that costs almost nothing, to isolate Ray's own cost
STORE_BYTES = 256 * 2**20


def open_corpus(root: Path) -> tuple[Path, Manifest]:
    corpus = root / "corpus"
    if not corpus.exists():
        write_corpus(corpus, ".wav", UTTERANCES)
    return corpus, read_train_lists(corpus, (LIST,))


def maker_of(root: Path, manifest: Manifest, crop_seconds: float, augmentation: tuple[Any, ...]) -> ViewMaker:
    data = DataConfig(root=str(root), augment=augmentation)
    return ViewMaker(manifest, (("views", 2, crop_seconds, False),), data, seed=1)


def through_ray(root: Path, cluster: Cluster, is_quick: bool) -> dict[str, Any]:
    """Measure one iterator: its bytes, its time per block, batch and pair, and its blocks per second."""
    import ray
    from ray.data.block import BlockAccessor

    corpus, manifest = open_corpus(root)
    no_augmentation = RECIPES["no augmentation"]
    tiny, full = (maker_of(corpus, manifest, seconds, no_augmentation) for seconds in (TINY_SECONDS, 2.0))
    pairs = round(cluster.pairs_per_block)
    with _ray(root):
        rows = {name: np.arange(pairs) % UTTERANCES for name in ("sample", "utterance", "epoch")}
        block = full.make_batch(rows)
        reference = ray.put(BlockAccessor.batch_to_block(block))
        stored_bytes = ray.experimental.get_object_locations([reference])[reference]["object_size"]
        del reference
        # A linear system for the costs of a block, a batch and a pair, whose numbers differ between the runs.
        blocks, batches_per_block = (24, 4) if is_quick else (300, 8)
        runs = [
            _feed(manifest, tiny, size=4, blocks=blocks, batches_per_block=1),
            _feed(manifest, tiny, size=4, blocks=blocks, batches_per_block=batches_per_block),
            _feed(manifest, full, size=32, blocks=blocks // 6, batches_per_block=4),
        ]
        costs = np.linalg.solve([run[:3] for run in runs], [run[3] for run in runs])
    per_block, per_batch, per_pair = (float(max(cost, 0.0)) for cost in costs)
    return {
        "views_per_pair_bytes": block["views"].nbytes // pairs,
        "store_per_pair_bytes": stored_bytes / pairs,
        "driver_per_block_seconds": per_block,
        "driver_per_batch_seconds": per_batch,
        "driver_per_pair_seconds": per_pair,
        "blocks_per_second": runs[0][0] / runs[0][4],
    }


@contextlib.contextmanager
def _ray(root: Path) -> Iterator[None]:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=STORE_BYTES,
    )
    before = set(threading.enumerate())
    try:
        yield
    finally:
        # A thread of a closed iterator that calls Ray after the shutdown would end this process.
        deadline = time.monotonic() + 8
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, deadline - time.monotonic()))
        ray.shutdown()


def _feed(
    manifest: Manifest, maker: ViewMaker, *, size: int, blocks: int, batches_per_block: int
) -> tuple[int, int, int, float, float]:
    """Return blocks, batches, pairs, CPU seconds of this process and wall seconds, after a warm-up.

    All batches come from Ray Data. Unlike in training, this process makes none while Ray's tasks start.
    """
    import ray

    steps = 1 + (blocks + 8) * batches_per_block
    plan = Plan(len(manifest), size, seed=1)
    stream = train_batches(
        plan,
        ray.put(maker),
        0,
        steps,
        utterances_per_block=batches_per_block * size,
        data_tasks=2,
        cpus_per_task=0.5,
    )
    with mock.patch("sslsv.data.pipeline._local_until_ready", lambda stream, own: stream):
        for _ in range(1 + 8 * batches_per_block):
            next(stream)
    cpu, clock = time.process_time(), time.perf_counter()
    batches = sum(1 for _ in stream)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return blocks, batches, batches * size, cpu, clock
