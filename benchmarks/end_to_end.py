"""Compare batches through Ray Data, and a real run of `sslsv.train`, with bare loops."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.corpus import write_corpus
from benchmarks.row import PRECISION, Row, Settings, speed_row
from benchmarks.training import overrides
from sslsv.cluster.connect import connect
from sslsv.config import load_config
from sslsv.data.lists import read_train_lists
from sslsv.data.pipeline import train_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker

PUBLISHED, SMALL = "configs/simclr.yml", "configs/corpus/simclr.yml"
PROCESSES = 2


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of the run, then the row of Ray Data."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "corpus"
        write_corpus(root, ".wav", 32 if settings.is_quick else 256)
        yield from _run(settings, root, Path(folder))
        yield _through_ray_data(settings, root)


def _through_ray_data(settings: Settings, root: Path) -> Row:
    """Compare crops per second through Ray Data with as many processes that make batches in a bare loop."""
    import ray

    size, blocks, pairs = (8, 1, 1) if settings.is_quick else (64, 20, 3)
    edits = overrides(root, size)
    config = load_config(PUBLISHED, edits)
    manifest = read_train_lists(root, config.data.train_lists)
    plan = Plan(len(manifest), config.train.batch_size, config.seed)
    maker = ViewMaker(manifest, (("views", 2, 2.0, False),), config.data, config.seed)
    connect(num_cpus=PROCESSES)
    try:
        with Contestant("batches", processes=PROCESSES, threads=1, config=PUBLISHED, overrides=edits) as bare:
            reference = ray.put(maker)
            per_block = 4 if settings.is_quick else max(1, config.resources.utterances_per_block // size)
            steps = blocks * per_block
            # Time the middle of the stream: all processes run, and both ends have as many half-made blocks.
            before, after = 1 + 10 * per_block, (PROCESSES + 2) * per_block
            times = []
            for turn in range(pairs + 1):
                stream = train_batches(
                    plan,
                    reference,
                    0,
                    before + steps + after,
                    utterances_per_block=per_block * size,
                    data_tasks=PROCESSES + 1,
                    cpus_per_task=0.5,
                )
                for _ in range(before):
                    next(stream)
                started = time.perf_counter()
                for _ in range(steps):
                    next(stream)
                seconds = time.perf_counter() - started
                stream.close()
                rounds = max(1, steps // PROCESSES)
                pair = (seconds / steps, bare.run(rounds) / (rounds * PROCESSES))
                if turn:  # turn 0 is a warm-up that opens every file
                    times.append(pair)
    finally:
        ray.shutdown()
    name = "augmented crops through Ray Data into the trainer's process"
    return speed_row(name, f"the bare loop in {PROCESSES} processes", times, 2 * size, "crops/s", target=0.9)


def _run(settings: Settings, root: Path, folder: Path) -> Iterator[Row]:
    """Compare a run with bare loops of its step before and after it; then yield its start-up time."""
    runs, size = (1, 8) if settings.is_quick else (2, 64)
    edits = overrides(root, size, "train.log_every_steps=10")
    if settings.corpus:
        edits = [f"data.root={settings.corpus}", "evaluation.test=[]", f"train.batch_size={size}"]
    edits.append(f"train.precision={PRECISION}")
    config = load_config(SMALL, edits)
    manifest = read_train_lists(config.data.root, config.data.train_lists)
    steps = (len(manifest) - config.evaluation.held_out_speakers) // size
    epochs = max(6, (40 if settings.is_quick else 120) // max(1, steps))
    edits += [
        "evaluation.every_epochs=1000000",
        "run.tensorboard=false",
        "run.wandb=disabled",
        "run.progress=false",
        f"run.storage={folder}/runs",
        "optimizer.schedule.warmup_epochs=0",
    ]
    rounds = 2 if settings.is_quick else 10
    first_steps: list[float] = []
    times = []
    with Contestant("training_step", config=SMALL, overrides=edits) as bare:
        before = bare.run(rounds) / rounds
        for run in range(runs):
            speed, start = _train([*edits, f"train.epochs={epochs}", f"run.name=run{run}"], folder, run)
            first_steps.append(start)
            after = bare.run(rounds) / rounds
            times.append((size / speed, (before + after) / 2))
            before = after
    corpus = "the given corpus" if settings.corpus else "a synthetic corpus"
    yield speed_row(
        f"training from end to end, {corpus}, {PRECISION}, steady state",
        "the bare step on a ready batch",
        times,
        size,
        "samples/s",
        target=0.95,
    )
    yield Row("start-up: from the command to the first record", "", statistics.median(first_steps), 0, "s")


def _train(edits: list[str], folder: Path, run: int) -> tuple[float, float]:
    """Return samples per second after the first blocks, and seconds from start to the first record."""
    records_file, log = folder / f"runs/run{run}/metrics.jsonl", folder / f"run{run}.txt"
    command = [sys.executable, "-m", "sslsv.train", SMALL, *edits]
    started = time.perf_counter()
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        start_up = 0.0
        while process.poll() is None:
            if not start_up and records_file.exists() and records_file.stat().st_size:
                start_up = time.perf_counter() - started
            time.sleep(0.1)
    if process.returncode != 0:
        raise RuntimeError(
            f"sslsv.train ended with exit code {process.returncode}: {log.read_text()[-2000:]}"
        )
    records = [json.loads(line) for line in records_file.open()]
    warm_up_steps = 2 * 16  # steps of the first two blocks
    steady = [record["samples_per_second"] for record in records if record["step"] > warm_up_steps]
    return statistics.median(steady), start_up
