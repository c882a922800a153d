"""Measure a training step on a GPU: python -m benchmarks.gpu [CONFIG] [key=value ...] [--steps 30]

The first table has CONFIG's step in several precisions and memory formats, after warm-up steps. All use the
same batch of noise, copied from pinned host memory as in training. `naive` is always SimCLR's usual step
(fp32, contiguous, reads the loss at every step), on floats that are already on the GPU. The speed of bf16
matrix products alone follows, as an upper limit. The second table has SimCLR and DINO with two encoders,
compiled and not, with the share of time in which kernels run. Without a GPU, `--quick` tests all of this on
the CPU at tiny sizes.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.command import parser_of
from benchmarks.methods import MethodStep
from benchmarks.naive_step import NaiveStep
from benchmarks.training import OPERATIONS_PER_CROP, matrix_peak
from sslsv.config import load_config
from sslsv.runs.environment import describe_environment
from sslsv.settings import ConfigError

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
SMALL_SECONDS = 0.5  # length of crops with --quick
WAYS = {
    "fp32": "train={precision: fp32, channels_last: false}",
    "fp32, channels last": "train={precision: fp32, channels_last: true}",
    "bf16": "train={precision: bf16, channels_last: false}",
    "bf16, channels last": "train={precision: bf16, channels_last: true}",
    "fp16, channels last": "train={precision: fp16, channels_last: true}",
    "bf16, channels last, recompute": "train={precision: bf16, channels_last: true, recompute: true}",
    "bf16, compiled": "train={precision: bf16, channels_last: false, compile: true}",
    "bf16, channels last, compiled": "train={precision: bf16, channels_last: true, compile: true}",
}
# Published recipes of two methods, each also with ECAPA-TDNN of 1,024 channels.
RECIPES = ("configs/simclr.yml", "configs/ecapa/simclr.yml", "configs/dino.yml", "configs/ecapa/dino.yml")


def main() -> int:
    parser = parser_of("gpu", __doc__)
    parser.add_argument("config", nargs="?", default="configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="skip compiled steps")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; works without a GPU")
    args = parser.parse_intermixed_args()
    if not HAS_GPU and not args.quick:
        print("error: PyTorch finds no GPU here; --quick tests the script on the CPU", file=sys.stderr)
        return 2
    steps, compiles = 5 if args.quick else args.steps, [False] if args.no_compile else [False, True]
    try:
        overrides = [*args.overrides, *(small(args.config, args.overrides) if args.quick else [])]
        base = load_config(args.config, overrides)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = base.train.batch_size
    seconds = SMALL_SECONDS if args.quick else getattr(base.model, "crop_seconds", 2.0)
    views = torch.randint(-8000, 8000, (size, 2, round(16000 * seconds)), dtype=torch.int16)
    print(f"{size} utterances, naive SimCLR with pairs of {seconds:g} s; {describe_environment().get('gpu')}")
    print("| step | ms | utterances/s | speed / naive | peak MiB | first step s |\n|---|---|---|---|---|---|")
    naive = measure("naive, fp32 contiguous", lambda: NaiveStep(views.to(DEVICE)), steps, size, None)
    for name, way in WAYS.items():
        if (args.no_compile and "compile" in way) or (not HAS_GPU and "fp16" in way):
            continue
        job = {"config": args.config, "overrides": [*overrides, way]}
        measure(name, lambda job=job: MethodStep(job).take, steps, size, naive)  # type: ignore[misc]
    if HAS_GPU:
        peak = matrix_peak(8192, DEVICE)
        pairs = peak / OPERATIONS_PER_CROP / 2
        print(f"bf16 matrix products alone: {peak / 1e12:.0f} TFLOP/s, or {pairs:.0f} pairs/s")
    print("\n| recipe | compiled | utterances | ms | utterances/s | time in kernels | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for is_compiled in compiles:
            measure_recipe(recipe, is_compiled, steps, args.quick)
    return 0


def small(path: str, overrides: list[str]) -> list[str]:
    """Return overrides that make a method's step small."""
    settings = vars(load_config(path, overrides).model)
    changes = [f"model.{name}={SMALL_SECONDS}" for name in settings if name.endswith("_seconds")]
    changes += ["model.num_prototypes=256"] if "num_prototypes" in settings else []
    return ["train.batch_size=4", *changes]


def measure_recipe(path: str, compiles: bool, steps: int, is_quick: bool) -> None:
    """Print the row of a recipe; the share of kernels is measured by PyTorch's profiler in a second pass."""
    overrides = [f"train.compile={str(compiles).lower()}"]
    if is_quick:
        overrides += small(path, [])
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
    """Print a row; return the median seconds per step over five series, each ended by a synchronisation."""
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
    """Wait until the GPU has finished all queued work."""
    if HAS_GPU:
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
