"""Measure the memory of a step.  python -m benchmarks.memory configs/simclr.yml [--batch-sizes 32 64]

Takes two steps of the config's method on noise, without and with recomputed activations, each in its own
process. On a GPU it reports the allocator's peak, on a CPU the growth of the resident set to its peak. Both
exclude the model and the batch, and include a method's work before an epoch.
"""

import multiprocessing

import torch

from benchmarks.command import memory_bytes, parser_of
from benchmarks.methods import MethodStep
from sslsv.config import load_config

WAYS = {"plain": "train.recompute=false", "recompute": "train.recompute=true"}


def peak_mb(config: str, overrides: list[str]) -> float:
    """Return the peak memory of two steps in MB, minus that of weights, batch and libraries before."""
    torch.set_num_threads(1)
    step = MethodStep({"config": config, "overrides": overrides})
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else memory_bytes("VmRSS")
    for _ in range(2):
        step()
    return step.facts["peak_mb"] - before / 1e6


def main() -> None:
    parser = parser_of("memory", __doc__)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: the config's batch size")
    args = parser.parse_intermixed_args()
    config = load_config(args.config, args.overrides)
    context = multiprocessing.get_context("spawn")
    print(f"{'batch':>6} {'variant':24} {'MiB':>8}")
    for batch_size in args.batch_sizes or [config.train.batch_size]:
        for name, override in WAYS.items():
            overrides = [*args.overrides, f"train.batch_size={batch_size}", override]
            with context.Pool(1) as pool:
                peak = pool.apply(peak_mb, (args.config, overrides))
            print(f"{batch_size:6} {name:24} {peak * 1e6 / 2**20:8.0f}", flush=True)


if __name__ == "__main__":
    main()
