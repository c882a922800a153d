"""Estimate what limits a training on many GPUs.  python -m benchmarks.scaling [--gpus 64] [--rates 1000 ...]

Measures the cost of one unit of each part on this machine (two minutes, 2 cores), multiplies it, and prints
the tables of docs/scaling.md. The pairs per second that a GPU trains on (`--rates`) are assumed.
"""

import argparse
import dataclasses
import sys
import time

from benchmarks.extrapolation import Cluster
from benchmarks.scaling_tables import first_table, limit_table, other_table, unit_table
from benchmarks.scaling_units import measure
from sslsv.runs.environment import describe_environment


def main() -> int:
    args = _parser().parse_args()
    cluster = Cluster(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Cluster)})
    problem = wrong(cluster)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    units = measure(cluster, is_quick=args.quick)
    if args.quick:
        print("quick: the numbers mean nothing\n")
    environment = ", ".join(f"{key} {value}" for key, value in describe_environment().items())
    print(f"### Units\n\nUnit costs ({environment}; {time.perf_counter() - started:.0f} s).\n")
    print(unit_table(units, cluster))
    print(f"\n### Limits\n\n{cluster.gpus} GPUs, a global batch of {cluster.batch_size}.\n")
    print(limit_table(units, cluster, args.rates))
    print("\n### Times, and demands without a measured capacity\n")
    print(other_table(units, cluster, args.rates))
    print("\n### The rate at which the first limit is reached\n")
    print(first_table(units, cluster))
    return 0


def wrong(cluster: Cluster) -> str:
    """Return what is wrong with the cluster's settings, or an empty string."""
    for field in dataclasses.fields(Cluster):
        value, minimum = getattr(cluster, field.name), 0 if field.name == "data_cores" else 1
        if field.type is int and value < minimum:
            return f"--{field.name.replace('_', '-')} is {value}; it must be {minimum} or more"
    if cluster.gpus < 2 or cluster.batch_size % cluster.gpus:
        return (
            f"--batch-size is {cluster.batch_size}, which --gpus {cluster.gpus} cannot share equally; give 2 "
            "or more GPUs, and a batch size that is a multiple of their number"
        )
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0]
    )
    for field in dataclasses.fields(Cluster):
        option, kind = "--" + field.name.replace("_", "-"), type(field.default)
        parser.add_argument(option, type=kind, default=field.default, metavar="N", help="default %(default)s")
    parser.add_argument("--rates", type=float, nargs="+", default=[1000, 5000, 10000], metavar="PAIRS")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which only test the code")
    return parser


if __name__ == "__main__":
    sys.exit(main())
