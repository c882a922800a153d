"""Measure `prepare_data check` of an already measured list: time and memory, in a process without torch."""

import json
import sys
import time
from pathlib import Path

from benchmarks.command import memory_bytes
from sslsv.data.list_forms import TRAIN, Rows
from sslsv.prepare_data.__main__ import main as prepare_data
from sslsv.prepare_data.check import facts_of


def check_again(root: Path) -> dict[str, float]:
    """Write a record with measurements of all recordings of a list, then check the list."""
    (root / "report").mkdir()
    with (root / "report/measurements.jsonl").open("w") as lines:
        for number, _, path in Rows(root, "list", TRAIN):
            file = {**facts_of(str(root / path)), "digest": f"{number:032x}"}
            form = {"seconds": 8.0, "sample_rate": 16_000, "silent_share": number / 3e9, "clipped_share": 0.0}
            lines.write(json.dumps({**file, **form}) + "\n")
    started = time.perf_counter()
    if prepare_data(["check", str(root / "list"), "--report", str(root / "report"), "--cpus", "1"]):
        raise SystemExit("The check reported bad recordings, but there are none.")
    return {"peak_mb": memory_bytes() / 2**20, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(check_again(Path(sys.argv[1]))))
