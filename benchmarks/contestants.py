"""Measure work in subprocesses, each with its own threads, allocator and priority; idle ones cost nothing.

A contestant is one process, or several that work together. For n rounds, each of its processes does n rounds,
and the slowest one counts. `benchmarks.contestant` is the program of these processes.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from typing_extensions import Self

from sslsv.cluster.fit import WORKER_ENVIRONMENT

MACHINE_THREADS = os.cpu_count() or 1


class Contestant:
    """Start and warm up `processes` processes that do one kind of work (see `benchmarks.contestant`).

    The context manager ends them. `has_trainer_environment` gives them the environment of training workers.
    """

    def __init__(
        self,
        kind: str,
        *,
        processes: int = 1,
        threads: int = MACHINE_THREADS,
        has_trainer_environment: bool = True,
        **job: Any,
    ) -> None:
        self._children: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory()
        self.facts: dict[str, float] = {}  # `facts` of the work in the first process
        environment = WORKER_ENVIRONMENT if has_trainer_environment else {}
        shared = {"kind": kind, "world_size": processes, "threads": threads, "folder": self._folder.name}
        for rank in range(processes):
            argument = json.dumps({**shared, "rank": rank, **job})
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.contestant", argument],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **environment, "OMP_NUM_THREADS": str(threads)},
                )
            )
        self._answers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, rounds: int) -> float:
        """Do `rounds` rounds and return the seconds of the slowest process."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{rounds}\n")
            child.stdin.flush()
        return max(self._answers())

    def close(self) -> None:
        """Close the processes' stdin, which ends them, and wait for them."""
        for child in self._children:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        for child in self._children:
            child.wait()
        self._folder.cleanup()

    def _answers(self) -> list[float]:
        answers: list[dict[str, float]] = []
        for child in self._children:
            assert child.stdout is not None
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(
                    f"a process of the benchmark ended early (exit code {child.wait()}); see its output above"
                )
            answers.append(json.loads(line))
        self.facts = answers[0]
        return [answer["seconds"] for answer in answers]
