"""What a training step costs on a GPU: python -m benchmarks.gpu [CONFIG] [key=value ...] [--steps 30]

Every way of taking the step on the same batch of noise, which comes out of pinned host memory as in
training, after steps that are not counted; `naive` is the step as it is usually written (fp32, contiguous,
the loss read at every step).  Then the matrix products that the GPU does when it does nothing else: a limit.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.naive_step import NaiveStep
from sslsv.config import Config, load_config
from sslsv.models.base import CorpusSize
from sslsv.runs.environment import describe_environment
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import take_step

GPU = torch.device("cuda")
OPERATIONS_PER_CROP = 2.679e9  # of two seconds through the published encoder, forward and backward
WAYS: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "fp32, channels last": {"precision": "fp32", "channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": False},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
    "fp16, channels last": {"precision": "fp16", "channels_last": True},
    "bf16, channels last, recompute": {"precision": "bf16", "channels_last": True, "recompute": True},
    "bf16, channels last, chunks of 32": {
        "precision": "bf16",
        "channels_last": True,
        "chunk_size": 32,
        "sync_batchnorm": False,
    },
    "bf16, compiled": {"precision": "bf16", "channels_last": False, "compile": True},
    "bf16, channels last, compiled": {"precision": "bf16", "channels_last": True, "compile": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("config", nargs="?", default="configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="leave out what compiles for a minute")
    given = parser.parse_intermixed_args()
    base = load_config(given.config, given.overrides)
    size = base.train.batch_size
    length = round(16000 * getattr(base.model, "crop_seconds", 2.0))
    views = torch.randint(-8000, 8000, (size, 2, length), dtype=torch.int16).pin_memory()
    print(f"{size} pairs of {length / 16000:g} s; " + str(describe_environment().get("gpu")))
    print("| step | ms | pairs/s | against naive | peak MiB | first step s |\n|---|---|---|---|---|---|")
    naive = measure("naive, fp32 contiguous", lambda: NaiveStep(views.to(GPU)), given.steps, size, None)
    for name, settings in WAYS.items():
        if given.no_compile and "compile" in settings:
            continue
        train = dataclasses.replace(base.train, **settings)  # type: ignore[arg-type]
        config = dataclasses.replace(base, train=train)
        measure(name, lambda config=config: step_of(config, views), given.steps, size, naive)  # type: ignore[misc]
    peak = matrix_peak()
    pairs = peak / OPERATIONS_PER_CROP / 2
    print(f"bf16 matrix products alone: {peak / 1e12:.0f} TFLOP/s, or {pairs:.0f} pairs/s")


def step_of(config: Config, views: torch.Tensor) -> Callable[[], object]:
    """A function that takes one step."""
    torch.manual_seed(0)
    state = build_state(config, CorpusSize(), GPU)
    network = wrap_model(state.model, config, GPU)
    batch = {"views": views, "sample": torch.arange(len(views)).pin_memory()}
    return lambda: take_step(
        state, network, batch, config=config, steps_per_epoch=10**6, device=GPU, corpus=None
    )


def measure(
    name: str, build: Callable[[], Callable[[], object]], steps: int, size: int, naive: float | None
) -> float:
    """Print a row; returns median seconds per step of five stretches, each ended by a synchronisation."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step = build()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(max(1, steps // 5)):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / max(1, steps // 5))
    seconds = statistics.median(times)
    ratio = f"{naive / seconds:.2f}x" if naive else "1"
    memory = torch.cuda.max_memory_allocated() / 2**20
    print(
        f"| {name} | {1000 * seconds:.1f} | {size / seconds:.0f} | {ratio} | {memory:.0f} | {first:.1f} |",
        flush=True,
    )
    return seconds


def matrix_peak() -> float:
    """Operations per second of products of large bf16 matrices."""
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device=GPU)
    square @ square
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        square @ square
    torch.cuda.synchronize()
    return float(10 * 2 * 8192**3 / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
