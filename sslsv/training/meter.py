"""Measure the training loop: averages of step metrics, speed, and share of time spent waiting for data."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sslsv.data.stream import Plan
from sslsv.ops import distributed
from sslsv.runs.checkpoint import Position


class Meter:
    """Average the metrics of steps; tensors are read only in `record`, because reading stalls a GPU."""

    def __init__(self, plan: Plan, total_steps: int, position: Position) -> None:
        self.plan, self.total_steps = plan, total_steps
        self.step = self.first_step = position.step
        self.seconds_before = position.seconds  # before the last restart
        self.start = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.seconds_of = {"waiting": 0.0, "pause": 0.0}
        self.since = time.monotonic()

    @contextlib.contextmanager
    def spent_on(self, what: Literal["waiting", "pause"]) -> Iterator[None]:
        """Count the time in the context as waiting for data, or as a pause (validation, tests, saving)."""
        start = time.monotonic()
        yield
        self.seconds_of[what] += time.monotonic() - start

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the scalars of one step."""
        self.steps += 1
        self.step += 1
        for key, value in values.items():
            value = value.detach().float()
            self.sums[key] = self.sums[key] + value if key in self.sums else value

    @property
    def seconds(self) -> float:
        """Return the training time of this run so far, in seconds, over all restarts."""
        return self.seconds_before + time.monotonic() - self.start

    def record(self) -> dict[str, Any]:
        """Return averages since the last record over steps and workers, and speed; start the next interval.

        Speed and `data_wait_share` exclude pauses. Every worker must call this at the same step, because
        values are averaged over workers.
        """
        keys = sorted(self.sums)
        local_means = torch.stack([self.sums[key] for key in keys]) / self.steps
        means = distributed.all_reduce_mean(local_means).tolist()
        elapsed = max(time.monotonic() - self.since - self.seconds_of["pause"], 1e-9)
        per_step = (time.monotonic() - self.start) / (self.step - self.first_step)
        record = {
            "step": self.step,
            "epoch": self.step / self.plan.steps_per_epoch,
            **dict(zip(keys, means, strict=True)),
            "samples_per_second": self.steps * self.plan.batch_size / elapsed,
            "data_wait_share": min(self.seconds_of["waiting"] / elapsed, 1.0),
            "seconds": self.seconds,
            "total_steps": self.total_steps,
            "seconds_left": per_step * (self.total_steps - self.step),
        }
        self._clear()
        return record
