"""What a training step costs on a GPU: python -m benchmarks.gpu [CONFIG] [key=value ...] [--steps 30]

Every way of taking the step on the same batch of noise, which comes out of pinned host memory as in
training, after steps that are not counted; `naive` is the step as it is usually written (fp32, contiguous,
the loss read at every step).  Then the matrix products that the GPU does when it does nothing else: a limit;
and SimCLR and DINO with either encoder, compiled and not, with the share of the time in which kernels run.
Without a GPU, `--quick` tries all of it on the CPU at a size that measures nothing.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.methods import MethodStep
from benchmarks.naive_step import NaiveStep
from sslsv.config import Config, load_config
from sslsv.models.base import CorpusSize
from sslsv.runs.environment import describe_environment
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import take_step

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
OPERATIONS_PER_CROP = 2.679e9  # of two seconds through the published encoder, forward and backward
WAYS: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "fp32, channels last": {"precision": "fp32", "channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": False},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
    "fp16, channels last": {"precision": "fp16", "channels_last": True},
    "bf16, channels last, recompute": {"precision": "bf16", "channels_last": True, "recompute": True},
    "bf16, compiled": {"precision": "bf16", "channels_last": False, "compile": True},
    "bf16, channels last, compiled": {"precision": "bf16", "channels_last": True, "compile": True},
}


# The published recipes; the second of each has ECAPA-TDNN with 1,024 channels.
RECIPES = ("configs/simclr.yml", "configs/ecapa/simclr.yml", "configs/dino.yml", "configs/ecapa/dino.yml")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("config", nargs="?", default="configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="leave out what compiles for a minute")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    given = parser.parse_intermixed_args()
    if not HAS_GPU and not given.quick:
        print("error: PyTorch finds no GPU here; --quick tries the script on the CPU", file=sys.stderr)
        return 2
    small = ["train.batch_size=4", "model.crop_seconds=0.5"] if given.quick else []
    given.steps = 5 if given.quick else given.steps
    base = load_config(given.config, [*given.overrides, *small])
    size = base.train.batch_size
    length = round(16000 * getattr(base.model, "crop_seconds", 2.0))
    views = torch.randint(-8000, 8000, (size, 2, length), dtype=torch.int16)
    views = views.pin_memory() if HAS_GPU else views
    print(f"{size} pairs of {length / 16000:g} s; " + str(describe_environment().get("gpu")))
    print("| step | ms | pairs/s | against naive | peak MiB | first step s |\n|---|---|---|---|---|---|")
    naive = measure("naive, fp32 contiguous", lambda: NaiveStep(views.to(DEVICE)), given.steps, size, None)
    for name, settings in WAYS.items():
        if (given.no_compile and "compile" in settings) or (not HAS_GPU and settings["precision"] == "fp16"):
            continue
        train = dataclasses.replace(base.train, **settings)  # type: ignore[arg-type]
        config = dataclasses.replace(base, train=train)
        measure(name, lambda config=config: step_of(config, views), given.steps, size, naive)  # type: ignore[misc]
    if HAS_GPU:
        peak = matrix_peak()
        pairs = peak / OPERATIONS_PER_CROP / 2
        print(f"bf16 matrix products alone: {peak / 1e12:.0f} TFLOP/s, or {pairs:.0f} pairs/s")
    print("\n| recipe | compiled | utterances | ms | utterances/s | kernels run | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for compiles in (False, True)[: 1 if given.no_compile else 2]:
            measure_recipe(recipe, compiles, given.steps, given.quick)
    return 0


def step_of(config: Config, views: torch.Tensor) -> Callable[[], object]:
    """A function that takes one step."""
    torch.manual_seed(0)
    state = build_state(config, CorpusSize(), DEVICE)
    network = wrap_model(state.model, config, DEVICE)
    sample = torch.arange(len(views))
    batch = {"views": views, "sample": sample.pin_memory() if HAS_GPU else sample}
    return lambda: take_step(
        state, network, batch, config=config, steps_per_epoch=10**6, device=DEVICE, corpus=None
    )


def measure_recipe(path: str, compiles: bool, steps: int, is_quick: bool) -> None:
    """Print the row of a recipe; the share of kernels is that of a stretch under PyTorch's profiler."""
    overrides = [f"train.compile={str(compiles).lower()}"]
    if is_quick:
        overrides += ["train.batch_size=4", *(["model.num_prototypes=256"] if "dino" in path else [])]
    step = MethodStep({"config": path, "overrides": overrides})
    size = step.config.train.batch_size
    for _ in range(2 if is_quick else 5):
        step()
    if HAS_GPU:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = (time.perf_counter() - started) / steps
    share = "-"
    if HAS_GPU:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(5):
                step()
        kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 5e6
        share = f"{kernels / seconds:.2f}"
    print(
        f"| {path} | {'yes' if compiles else 'no'} | {size} | {1000 * seconds:.1f} | {size / seconds:.0f} "
        f"| {share} | {step.facts['peak_mb'] / 1.048576:.0f} |",
        flush=True,
    )


def measure(
    name: str, build: Callable[[], Callable[[], object]], steps: int, size: int, naive: float | None
) -> float:
    """Print a row; returns median seconds per step of five stretches, each ended by a synchronisation."""
    if HAS_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step = build()
    step()
    wait()
    first = time.perf_counter() - started
    for _ in range(5):
        step()
    wait()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(max(1, steps // 5)):
            step()
        wait()
        times.append((time.perf_counter() - started) / max(1, steps // 5))
    seconds = statistics.median(times)
    ratio = f"{naive / seconds:.2f}x" if naive else "1"
    memory = torch.cuda.max_memory_allocated() / 2**20 if HAS_GPU else 0
    print(
        f"| {name} | {1000 * seconds:.1f} | {size / seconds:.0f} | {ratio} | {memory:.0f} | {first:.1f} |",
        flush=True,
    )
    return seconds


def wait() -> None:
    """Until the GPU has done what it was asked for."""
    if HAS_GPU:
        torch.cuda.synchronize()


def matrix_peak() -> float:
    """Operations per second of products of large bf16 matrices."""
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device=DEVICE)
    square @ square
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        square @ square
    torch.cuda.synchronize()
    return float(10 * 2 * 8192**3 / (time.perf_counter() - started))


if __name__ == "__main__":
    sys.exit(main())
