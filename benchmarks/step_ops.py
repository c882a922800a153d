"""Show the time of a training step by kind of operation: ours in bf16 and fp32, and the naive step.

python -m benchmarks.step_ops [--batch 64] [--steps 3]

Explains the rows of `python -m benchmarks --only training`. PyTorch's profiler measures the self time of each
operation. Each step runs in its own process, with the threads and the allocator of a training.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import in_own_process, parser_of
from benchmarks.contestant import WARM_UP_ROUNDS, naive_step, training_step
from benchmarks.corpus import write_corpus
from benchmarks.training import CONFIG, overrides
from sslsv.cluster.fit import WORKER_ENVIRONMENT

STEPS = {
    "naive, fp32": None,
    "ours, fp32": "train.precision=fp32",
    "ours, bf16": "train.precision=bf16",
}
# Kind -> parts of the names of its operations; the first kind that matches counts.
KINDS = {
    "convolutions": ("conv", "mkldnn_reorder"),
    "batch norms": ("batch_norm", "var_mean", "BatchNorm"),
    "optimizer": ("adam", "_foreach"),
    "matrix products": ("aten::mm", "aten::addmm", "matmul", "linear", "bmm"),
    "features": ("fft", "stft"),
    "ReLU, adding, copying, casting": (
        "relu",
        "threshold",
        "clamp",
        "add",
        "copy_",
        "mul",
        "fill_",
        "zero_",
        "cat",
        "sub",
    ),
}
OTHER = "all else"


def main() -> int:
    parser = parser_of("step_ops", __doc__)
    parser.add_argument("--batch", type=int, default=64, help="utterances, with two crops of 2 s each")
    parser.add_argument("--steps", type=int, default=3, help="number of profiled steps")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)  # measured in its own process
    args = parser.parse_args()
    if args.only:
        print(json.dumps(milliseconds(args.only, args.batch, args.steps)))
        return 0
    sizes = ["--batch", str(args.batch), "--steps", str(args.steps)]
    times = {}
    for name, setting in STEPS.items():
        environment = {} if setting is None else WORKER_ENVIRONMENT
        times[name] = in_own_process("step_ops", "--only", name, *sizes, environment=environment)
    table = Table("ms of a step", *STEPS)
    for kind in (*KINDS, OTHER):
        table.add_row(kind, *[f"{ms[kind]:.0f} ({ms[kind] / sum(ms.values()):.0%})" for ms in times.values()])
    table.add_row("total", *[f"{sum(ms.values()):.0f}" for ms in times.values()])
    Console().print(table)
    return 0


def milliseconds(name: str, batch: int, steps: int) -> dict[str, float]:
    """Return the milliseconds per step of each kind, as self time of its operations."""
    with tempfile.TemporaryDirectory() as folder:
        step = _step(STEPS[name], Path(folder), batch)
        for _ in range(WARM_UP_ROUNDS):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                step()
    times = dict.fromkeys((*KINDS, OTHER), 0.0)
    for event in profiler.key_averages():
        times[_kind(event.key)] += event.self_cpu_time_total / 1000 / steps
    return times


def _step(setting: str | None, root: Path, batch: int) -> Callable[[], object]:
    torch.set_num_threads(os.cpu_count() or 1)
    if setting is None:
        return naive_step({"batch_size": batch})
    write_corpus(root, ".wav", batch)
    job: dict[str, Any] = {"rank": 0, "world_size": 1, "folder": str(root), "config": CONFIG}
    return training_step({**job, "overrides": overrides(root, batch, setting)})


def _kind(operation: str) -> str:
    for kind, parts in KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return OTHER


if __name__ == "__main__":
    sys.exit(main())
