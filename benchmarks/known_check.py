"""`prepare_data check` of a list that is measured already: time and memory, in a process without torch."""

import json
import resource
import sys
import time
from pathlib import Path

from sslsv.data.lists import train_rows
from sslsv.prepare_data.__main__ import main as prepare_data
from sslsv.prepare_data.inspection import stamp


def check_again(root: Path) -> dict[str, float]:
    """Check a list whose recordings, as the record says, have all been measured before."""
    (root / "report").mkdir()
    with (root / "report/measurements.jsonl").open("w") as lines:
        for number, _, path in train_rows(root, "list"):
            size, mtime_ns = stamp(str(root / path))
            known = {"path": str(root / path), "size": size, "mtime_ns": mtime_ns, "digest": f"{number:032x}"}
            shares = {"silent_share": number / 3e9, "clipped_share": 0.0, "dc_offset": number / 7e9}
            form = {"seconds": 8.0, "sample_rate": 16_000, "channels": 1, "encoding": "WAV PCM_16"}
            levels = {"peak_db": -number / 3e6, "level_db": -number / 7e6}
            lines.write(json.dumps({**known, **shares, **form, **levels}) + "\n")
    started = time.perf_counter()
    if prepare_data(["check", str(root / "list"), "--report", str(root / "report"), "--processes", "1"]):
        raise SystemExit("The check found bad recordings where there is none.")
    return {"peak_mb": peak_mb(), "seconds": time.perf_counter() - started}


def peak_mb() -> float:
    """Largest memory of this process so far; Linux gives a new process its parent's in `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes


if __name__ == "__main__":
    print(json.dumps(check_again(Path(sys.argv[1]))))
