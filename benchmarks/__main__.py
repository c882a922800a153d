"""Compare every hot path with a naive reference, measured alternately in one run.

python -m benchmarks [--corpus DIR] [--only NAME ...] [--out FILE.json] [--quick]

The result is a ratio per row: the median over pairs of alternating runs, with minimum and maximum. This takes
some minutes on an otherwise idle machine.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.row import HEADER, Row, Settings
from sslsv.runs.environment import describe_environment

# Name of a group -> the module with its rows.
GROUPS = {
    "data": "data_path",
    "kernels": "kernels",
    "evaluation": "evaluation",
    "large": "large",
    "driver": "driver",
    "training": "training",
    "methods": "methods",
    "encoders": "encoders",
    "neighbours": "neighbours",
    "start": "start",
    "end-to-end": "end_to_end",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="real speech for the group end-to-end")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the numbers to a file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which only test the code")
    args = parser.parse_args()
    if args.corpus and not args.corpus.is_dir():
        print(
            f"error: --corpus is {args.corpus}, which is not a folder; give one in VoxCeleb's layout",
            file=sys.stderr,
        )
        return 2
    if args.corpus and args.only and "end-to-end" not in args.only:
        print("error: only end-to-end reads --corpus; omit it or add end-to-end to --only", file=sys.stderr)
        return 2
    settings = Settings(args.corpus and args.corpus.resolve(), args.quick)
    started = time.time()
    rows = measured(settings, args.only or list(GROUPS))
    table = Table(*HEADER, title="quick: the numbers mean nothing" if args.quick else None)
    for row in rows:
        table.add_row(*row.cells())
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(table)
    environment = describe_environment() | {"cpu": str(torch.cpu.get_capabilities().get("cpu_name", ""))}
    console.print(
        ", ".join(f"{key} {value}" for key, value in environment.items()), f"{time.time() - started:.0f} s"
    )
    if args.out:
        result = {
            "environment": environment,
            "settings": {
                "quick": args.quick,
                "groups": args.only or list(GROUPS),
                "corpus": bool(args.corpus),
            },
            "seconds": time.time() - started,
            "rows": [asdict(row) | {"ratio": row.ratio, "is_reached": row.is_reached} for row in rows],
        }
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measured(settings: Settings, groups: list[str]) -> list[Row]:
    """Return all rows, and print each on stderr as soon as it is measured."""
    rows = []
    for name in groups:
        group: Callable[[Settings], Iterator[Row]] = import_module(f"benchmarks.{GROUPS[name]}").rows
        for row in group(settings):
            rows.append(row)
            print(" | ".join(cell for cell in row.cells() if cell), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
