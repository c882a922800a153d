"""How a benchmark is called: its own command line, and others in processes of their own; their memory."""

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
    """A parser for `python -m benchmarks.NAME`, whose help shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def in_own_process(name: str, *arguments: str, environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """What `python -m benchmarks.NAME` finds: the JSON in the last line that it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def memory_bytes(line: str = "VmHWM") -> int:
    """Largest memory of this process so far (VmHWM), or its memory now (VmRSS; Linux only).

    Linux gives a new process its parent's largest in `ru_maxrss`.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition(f"{line}:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
