"""What limits many GPUs on a million utterances?  python -m benchmarks.scaling [--gpus 64] [--rates 1000 ...]

Measures one unit of everything on this machine (two minutes, 2 cores), and multiplies: prints the tables of
docs/scaling.md.  How many pairs a second a GPU takes is given, not measured.
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
    given = _parser().parse_args()
    cluster = Cluster(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Cluster)})
    problem = wrong(cluster)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    units = measure(cluster, is_quick=given.quick)
    if given.quick:
        print("quick: the numbers mean nothing\n")
    environment = ", ".join(f"{key} {value}" for key, value in describe_environment().items())
    print(f"### Units\n\nCost of one unit each ({environment}; {time.perf_counter() - started:.0f} s).\n")
    print(unit_table(units, cluster))
    print(f"\n### Limits\n\n{cluster.gpus} GPUs, a global batch of {cluster.batch_size}.\n")
    print(limit_table(units, cluster, given.rates))
    print("\n### Times, and demands without a measured capacity\n")
    print(other_table(units, cluster, given.rates))
    print("\n### The rate at which the first limit is reached\n")
    print(first_table(units, cluster))
    return 0


def wrong(cluster: Cluster) -> str:
    """Return what is wrong with the cluster's settings, or an empty string."""
    for field in dataclasses.fields(Cluster):
        value, least = getattr(cluster, field.name), 0 if field.name == "data_cores" else 1
        if field.type is int and value < least:
            return f"--{field.name.replace('_', '-')} is {value}; it must be {least} or more"
    if cluster.gpus < 2 or cluster.batch_size % cluster.gpus:
        return (
            f"--batch-size is {cluster.batch_size}, which --gpus {cluster.gpus} cannot share equally; give 2 "
            "GPUs or more, and a multiple of their number"
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
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the code, measures nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
