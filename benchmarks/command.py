"""Provide command lines of benchmarks, calls of benchmarks in subprocesses, and memory of a process."""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.NAME`; its help shows `description` unwrapped."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def in_own_process(name: str, *arguments: str, environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """Run `python -m benchmarks.NAME` and return the JSON in the last line of its output."""
    completed = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def memory_bytes(line: str = "VmHWM") -> int:
    """Return the peak memory of this process (VmHWM), or its current memory (VmRSS; Linux only).

    `ru_maxrss` would be wrong on Linux, where a new process inherits its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition(f"{line}:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
