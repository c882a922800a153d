"""What the loop measures of itself: averages of the steps' numbers, speed, where the time goes."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sslsv.ops import distributed

Pause = Literal["validation", "checkpoint", "reporting"]
PAUSES: tuple[Pause, ...] = ("validation", "checkpoint", "reporting")


class Meter:
    """Averages the tensors of the steps on request; until then none is read, which would make a GPU wait."""

    def __init__(
        self, *, batch_size: int, total_steps: int, steps_per_epoch: int, first_step: int, seconds: float
    ) -> None:
        self.batch_size, self.total_steps, self.steps_per_epoch = batch_size, total_steps, steps_per_epoch
        self.step = self.first_step = first_step
        self.seconds_before = seconds  # of the runs before this restart
        self.start = time.monotonic()
        self.waited_total = 0.0
        self.paused_totals = dict.fromkeys(PAUSES, 0.0)
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.waited = 0.0
        self.pauses = dict.fromkeys(PAUSES, 0.0)
        self.since = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self.waited += seconds
        self.waited_total += seconds

    @contextlib.contextmanager
    def paused(self, what: Pause) -> Iterator[None]:
        """Time inside counts neither as training nor as waiting."""
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self.pauses[what] += seconds
        self.paused_totals[what] += seconds

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the scalars of one step."""
        self.steps += 1
        self.step += 1
        for key, value in values.items():
            value = value.detach().float()
            self.sums[key] = self.sums[key] + value if key in self.sums else value

    @property
    def training_seconds(self) -> float:
        """Seconds since the start or restart without the pauses."""
        return time.monotonic() - self.start - sum(self.paused_totals.values())

    def time_shares(self) -> dict[str, float]:
        """Shares, 0 to 1, of all time since the start or restart: what the steps took, and what they did not.

        `training` (with the step's own communication), `waiting` (for data, its start-up included) and the
        pauses; together 1.
        """
        whole = max(time.monotonic() - self.start, 1e-9)
        others = dict[str, float](waiting=self.waited_total, **self.paused_totals)
        shares = {name: min(seconds / whole, 1.0) for name, seconds in others.items()}
        return {"training": max(0.0, 1.0 - sum(shares.values())), **shares}

    @property
    def seconds(self) -> float:
        """Seconds of this run so far, restarts included."""
        return self.seconds_before + time.monotonic() - self.start

    def record(self) -> dict[str, Any]:
        """Averages since the last record over steps and workers, and speed; starts the next interval.

        Speed and `data_wait_share` are of the time without pauses; `validation_share`, `checkpoint_share` and
        `reporting_share`, where there were any since the last record, are shares of all time. Every worker
        must call it at the same step: it averages over workers.
        """
        keys = sorted(self.sums)
        local_means = torch.stack([self.sums[key] for key in keys]) / self.steps
        means = distributed.all_reduce_mean(local_means).tolist()
        whole = max(time.monotonic() - self.since, 1e-9)
        elapsed = max(whole - sum(self.pauses.values()), 1e-9)
        done = self.step - self.first_step
        per_step = (time.monotonic() - self.start) / done
        record = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            **dict(zip(keys, means, strict=True)),
            "samples_per_second": self.steps * self.batch_size / elapsed,
            "data_wait_share": min(self.waited / elapsed, 1.0),
            **{f"{what}_share": seconds / whole for what, seconds in self.pauses.items() if seconds},
            "seconds": self.seconds,
            "total_steps": self.total_steps,
            "seconds_left": per_step * (self.total_steps - self.step),
        }
        self._clear()
        return record
