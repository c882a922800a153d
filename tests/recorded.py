"""Run trainings whose workers record every step; see recorded_training.py."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.training_command import Training


class Recorded(Training):
    """Run a Training and report what its workers have done."""

    def __init__(
        self,
        tmp_path: Path,
        corpus: Path,
        name: str,
        *overrides: str,
        pace: float = 0.0,
        data_pace: float = 0.0,
        epochs: int = 20,
    ) -> None:
        self.notes = tmp_path / f"{name}_notes"
        self.notes.mkdir(parents=True, exist_ok=True)
        script = str(REPOSITORY / "tests/recorded_training.py")
        command = (sys.executable, script, str(self.notes), str(pace), str(data_pace), "{yaml}")
        super().__init__(tmp_path, corpus, name, *overrides, epochs=epochs, command=command)

    def lines(self) -> list[dict[str, Any]]:
        """Return the records of all workers and steps, in the order of time."""
        found = []
        for file in self.notes.iterdir():
            for line in file.read_text().splitlines():
                try:
                    found.append(json.loads(line) | {"pid": int(file.stem)})
                except json.JSONDecodeError:  # truncated by a kill
                    continue
        return sorted(found, key=lambda line: line["time"])

    def rows(self) -> dict[int, dict[str, set[str]]]:
        """Return step -> sample -> checksums of its audio; a repeated step must not add a second checksum."""
        found: dict[int, dict[str, set[str]]] = {}
        for line in self.lines():
            for sample, checksum in line["rows"].items():
                found.setdefault(line["step"], {}).setdefault(sample, set()).add(checksum)
        return found

    def has_done(self, step: int, workers: int | None = None) -> bool:
        """Return whether the newest step is `step` or later, and was taken by `workers` workers."""
        lines = self.lines()
        return bool(lines) and lines[-1]["step"] >= step and workers in (None, lines[-1]["workers"])

    def workers(self) -> list[int]:
        """Return the processes that took the newest step or the one before it."""
        lines = self.lines()
        return sorted({line["pid"] for line in lines if line["step"] >= lines[-1]["step"] - 1})

    def resumed_at(self, moment: float) -> int | None:
        """Return the first step by processes that had no step before `moment`; None if there are none."""
        lines = self.lines()
        old = {line["pid"] for line in lines if line["time"] <= moment}
        return next((line["step"] for line in lines if line["pid"] not in old), None)

    def cost_of(self, moment: float) -> tuple[int, float]:
        """Return the number of repeated steps after a fault, and the seconds from it to the first new step.

        If the same workers continued: 0, and the longest pause around the fault.
        """
        lines = self.lines()
        before = [line for line in lines if line["time"] <= moment]
        old = {line["pid"] for line in before}
        after = [line for line in lines if line["pid"] not in old]
        if not after:
            times = [line["time"] for line in lines if line["time"] > moment - 1]
            return 0, max((b - a for a, b in zip(times, times[1:], strict=False)), default=0.0)
        done = max(line["step"] for line in lines if line["pid"] in old)
        return done + 1 - after[0]["step"], after[0]["time"] - moment
