"""Measure the overhead of trials.  python -m benchmarks.sweep_overhead SPACE [key=value ...]

Runs complete sweeps one after another, each under a time limit. Prints the time of each sweep and its
overhead per leg (a part of a trial up to a rung) and per trial. Overhead is the time that no trial spent on
training or validation. It excludes `start`, the seconds until the first decision about a trial. A sweep that
exceeds the limit is killed and ends the benchmark.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.command import parser_of
from benchmarks.sweep_restarts import Sweep, read_lines


def trained_seconds(folder: Path) -> float:
    """Return the sum of the seconds that trials record, each up to its last validation."""
    total = 0.0
    for records in folder.glob("trials/*/metrics.jsonl"):
        total += max((record.get("seconds", 0.0) for record in read_lines(records)), default=0.0)
    return total


def main() -> int:
    parser = parser_of("sweep_overhead", __doc__)
    parser.add_argument("space")
    parser.add_argument("overrides", nargs="*", help="settings of all trials")
    parser.add_argument("--repeats", type=int, default=10, help="sweeps in a row (%(default)s)")
    parser.add_argument("--trials", type=int, default=8, help="trials per sweep (%(default)s)")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once (%(default)s)")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds a sweep may take (%(default)s)")
    args = parser.parse_args()
    sizes = ["--trials", str(args.trials), "--concurrent", str(args.concurrent)]
    print("sweep  trials  legs  seconds  start  in training  overhead per leg  per trial")
    with tempfile.TemporaryDirectory() as storage:
        for number in range(1, args.repeats + 1):
            started = time.monotonic()
            sweep = Sweep(Path(storage), f"sweep_{number}", [args.space, *args.overrides, *sizes])
            timer = threading.Timer(args.limit, sweep.kill)  # `sweep.wait` then ends this program
            timer.start()
            beginning = sweep.wait()
            timer.cancel()
            seconds = time.monotonic() - started
            trials, legs = len(sweep.outcomes()), len(read_lines(sweep.folder / "outcomes.jsonl"))
            # With n trials at once, each second of the sweep holds n seconds of trials.
            trained = trained_seconds(sweep.folder) / args.concurrent
            overhead = seconds - beginning - trained
            print(
                f"{number:5d}  {trials:6d}  {legs:4d}  {seconds:7.1f}  {beginning:5.1f}  {trained:11.1f}  "
                f"{overhead / legs:16.2f}  {overhead / trials:9.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
