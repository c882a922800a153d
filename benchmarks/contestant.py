"""Run one kind of work as a subprocess of `benchmarks.contestants`.

Each line of stdin is a number of rounds. The answer is a line of JSON: the seconds of these rounds, their CPU
seconds, and further values of the work (`facts`). A first line, with 0 seconds, follows the warm-up.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.distributed as dist

from benchmarks.encoders import embedding, peer_embedding, peer_step
from benchmarks.methods import MethodStep
from benchmarks.naive_step import NaiveEncoder, NaiveStep
from sslsv.cluster.neighbours import watch_neighbours
from sslsv.config import load_config
from sslsv.runs.folder import RunFolder
from sslsv.train import check_data, prepare_folder
from sslsv.training.loop import Training
from tests.data.batches import plain_batches

WARM_UP_ROUNDS = 5  # the first three steps of a training still allocate memory


def ready_views(rows: int, samples: int = 32_000) -> torch.Tensor:
    """Return two views per row, int16 (rows, 2, samples): noise, partly shared by both views of a row."""
    generator = torch.Generator().manual_seed(3)
    shared, individual = (torch.randn(rows, views, samples, generator=generator) for views in (1, 2))
    return (2000 * (shared + 0.5 * individual)).to(torch.int16)


def training_step(job: dict[str, Any]) -> Callable[[], object]:
    """Return the trainer's step on a prepared batch."""
    training = open_training(job)
    if job.get("watches_neighbours", True):
        watch_neighbours()
    config = training.config
    rows = config.train.batch_size // job["world_size"]
    samples = round(16_000 * config.model.crop_seconds)
    batch = {"views": ready_views(rows, samples), "sample": torch.arange(rows)}
    return lambda: training.take_step(dict(batch))


def open_training(job: dict[str, Any]) -> Training:
    """Open the training of a config in this process, as one rank of the contestant's processes."""
    if job["world_size"] > 1:
        url = f"file://{job['folder']}/meet"
        dist.init_process_group("gloo", init_method=url, rank=job["rank"], world_size=job["world_size"])
    config = load_config(job["config"], job["overrides"])
    folder = RunFolder(str(Path(job["folder"]) / str(job["rank"])), "run")
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    return Training(config, folder, device=torch.device("cpu"))


def naive_step(job: dict[str, Any]) -> Callable[[], object]:
    """Return the naive step on a prepared batch."""
    return NaiveStep(ready_views(job["batch_size"]))


def batches(job: dict[str, Any]) -> Callable[[], object]:
    """Return a function that makes an augmented batch, without Ray, in this niced process of one thread."""
    os.nice(19)
    training = open_training({**job, "world_size": 1})
    # Each process makes a different part of the run.
    stream = plain_batches(training.plan, training.maker, 10_000 * job["rank"], 10**6)
    return lambda: next(stream)


def naive_embedding(job: dict[str, Any]) -> Callable[[], object]:
    """Return a function that embeds one entire file in float32; a round is one file."""
    encoder = NaiveEncoder().eval()
    paths = iter(job["paths"] * 1000)

    def embed() -> object:
        waveform, _ = soundfile.read(next(paths))
        with torch.no_grad():
            return encoder(torch.from_numpy(waveform.astype(np.float32))[None]).numpy()

    return embed


KINDS: dict[str, Callable[[dict[str, Any]], Callable[[], object]]] = {
    "training_step": training_step,
    "method_step": MethodStep,
    "embedding": embedding,
    "peer_step": peer_step,
    "peer_embedding": peer_embedding,
    "naive_step": naive_step,
    "batches": batches,
    "naive_embedding": naive_embedding,
}


def main() -> None:
    job = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with answers
    torch.set_num_threads(job["threads"])
    work = KINDS[job["kind"]](job)
    for _ in range(job.get("warm_up_rounds", WARM_UP_ROUNDS)):
        work()

    def answer(seconds: float, cpu_seconds: float) -> None:
        values = {"seconds": seconds, "cpu_seconds": cpu_seconds, **getattr(work, "facts", {})}
        print(json.dumps(values), file=answers, flush=True)

    answer(0.0, 0.0)
    for line in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            work()
        answer(time.perf_counter() - started, time.process_time() - cpu_started)


if __name__ == "__main__":
    main()
