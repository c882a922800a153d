"""Measure the training step on prepared batches, and next to busy data processes."""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.contestants import Contestant
from benchmarks.corpus import LIST, write_corpus
from benchmarks.row import Row, Settings, speed_row

CONFIG = "configs/simclr.yml"
OPERATIONS_PER_CROP = 2.679e9  # for a crop of 2 s through its encoder, forward and backward


def overrides(root: Path, batch_size: int, *more: str) -> list[str]:
    """Return overrides: the published recipe on a synthetic corpus, so long that a run never ends."""
    return [
        f"data.root={root}",
        f"data.train_lists=[{LIST}]",
        f"train.batch_size={batch_size}",
        "train.epochs=1000000",
        "evaluation.held_out_speakers=0",
        "evaluation.label_free.utterances=0",
        "evaluation.test=[]",
        "run.tensorboard=false",
        "run.wandb=disabled",
        *more,
    ]


def rows(settings: Settings) -> Iterator[Row]:
    """Compare precisions with the naive step, and a step next to busy data processes with a step alone."""
    size, pairs = (4, 2) if settings.is_quick else (64, 5)
    crops = 2 * size
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root, ".wav", size)

        def trainer(*more: str) -> Contestant:
            return Contestant("training_step", config=CONFIG, overrides=overrides(root, size, *more))

        limit = matrix_peak(2048, torch.device("cpu")) / OPERATIONS_PER_CROP
        peak = f"matrix products alone {limit:.0f}"
        with trainer() as bf16:
            with Contestant("naive_step", has_trainer_environment=False, batch_size=size) as naive:
                reference = "naive, fp32 contiguous"
                yield step_row("train step, bf16", reference, bf16, naive, pairs, crops, 2.5, peak)
                with trainer("train.precision=fp32") as fp32:
                    yield step_row("train step, fp32", reference, fp32, naive, pairs, crops, 1.4)
            edits = overrides(root, size)
            with Contestant("batches", processes=2, threads=1, config=CONFIG, overrides=edits) as data:
                yield beside_row(bf16, data, pairs, crops)


def step_row(
    name: str,
    reference: str,
    ours: Contestant,
    theirs: Contestant,
    pairs: int,
    crops: int,
    target: float,
    limit: str = "",
) -> Row:
    """Return a row of crops per second, measured alternately over two steps."""
    times = [(ours.run(2), theirs.run(2)) for _ in range(pairs)]
    return speed_row(name, reference, times, 2 * crops, "crops/s", target=target, limit=limit)


def beside_row(trainer: Contestant, data: Contestant, pairs: int, crops: int) -> Row:
    """Compare steps next to two always busy data processes (busier than in training) with steps alone."""
    times = []
    for _ in range(pairs):
        is_over = threading.Event()

        def keep_busy(is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                data.run(1)

        busy = threading.Thread(target=keep_busy)
        busy.start()
        beside = trainer.run(2)
        is_over.set()
        busy.join()
        times.append((beside, trainer.run(2)))
    return speed_row(
        "train step next to 2 busy data processes", "alone", times, 2 * crops, "crops/s", target=0.9
    )


def matrix_peak(size: int, device: torch.device) -> float:
    """Return the operations per second of square bf16 matrix products, on all cores or on the GPU."""
    square = torch.randn(size, size, dtype=torch.bfloat16, device=device)

    def multiply(rounds: int) -> float:
        started = time.perf_counter()
        for _ in range(rounds):
            square @ square
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    multiply(1)
    return float(4 * 2 * size**3 / multiply(4))
