"""Measure how long a user waits for --help, for a refused setting and for the first step of the demo."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.row import Row, Settings
from sslsv.prepare_data.demo import DemoOptions, make_demo_corpus

DEMO, SCHEDULE = "configs/demo.yml", "optimizer.schedule.warmup_epochs=0"


def rows(settings: Settings) -> Iterator[Row]:
    """Yield rows measured after a first call, when Python's files are in the system's cache."""
    yield _row("help", lambda: answer("--help"), 1)
    yield _row("the refusal of a setting", lambda: answer(DEMO, "train.epochs=none"), 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        speakers = 10 if settings.is_quick else 40
        make_demo_corpus(root, DemoOptions(speakers=speakers, eval_speakers=3, recordings=2, utterances=4))
        edits = [f"data.root={root}", f"run.storage={folder}/runs", "train.log_every_steps=1"]
        yield _row("the first step of the demo", lambda: first_step(Path(folder), *edits), 12)


def _row(name: str, measure, most: float) -> Row:  # type: ignore[no-untyped-def]
    measure()
    seconds = statistics.median(measure() for _ in range(3))
    return Row(f"from the command to {name}", "", seconds, 0, "s", most=most)


def answer(*arguments: str) -> float:
    """Return the seconds until `sslsv.train` ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sslsv.train", *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def first_step(folder: Path, *given: str) -> float:
    """Return the seconds until the record of the first step is written, then stop the run."""
    name = f"run{time.time_ns()}"
    command = [sys.executable, "-m", "sslsv.train", DEMO, SCHEDULE, *given, f"run.name={name}"]
    records, started = folder / "runs" / name / "metrics.jsonl", time.perf_counter()
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with (folder / "said.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    while not (records.exists() and records.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    if process.poll() is not None:
        raise RuntimeError(f"sslsv.train ended before its first step: {(folder / 'said.txt').read_text()}")
    process.send_signal(signal.SIGINT)
    process.wait()
    return seconds
