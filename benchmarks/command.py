"""How a benchmark is called: its own command line, and others in processes of their own."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
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
