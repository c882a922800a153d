"""Where a training step's time goes: its parts, timed in a sample of the steps."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslsv.data.timed_views import DATA_SECTIONS
from sslsv.encoders.features import LogMel
from sslsv.models.base import TwoViewModel
from sslsv.ops import local_exchange
from sslsv.training.meter import Meter
from sslsv.training.state import TrainingState
from sslsv.training.stopwatch import Stopwatch, Watched

# In the order in which they come.
STEP_SECTIONS = (
    "waiting for data",
    "transfer",
    "features",
    "forward",
    "backward",
    "communication",
    "optimizer",
    "reporting",
)
_COLLECTIVES = ("all_reduce", "all_gather", "all_gather_object", "broadcast_object_list", "barrier")


def stopwatch_of(device: torch.device) -> Stopwatch:
    """A stopwatch that waits for a GPU's work at every change of section."""
    return Stopwatch(torch.cuda.synchronize if device.type == "cuda" else lambda: None)


def watched_functions(state: TrainingState, network: nn.Module) -> tuple[Watched, ...]:
    """The parts of `take_step(state, network, ...)`.

    What comes before the model is called is transfer, and what turns gradients into new weights is the
    optimizer; DDP's averaging, which hides behind the backward pass, is part of that.
    """
    features = [module for module in state.model.modules() if isinstance(module, LogMel)]
    of_chunks = ("project", "compare") if isinstance(state.model, TwoViewModel) else ()
    return (
        Watched(network, "forward", "forward"),
        *[Watched(state.model, name, "forward") for name in of_chunks],
        *[Watched(module, "forward", "features") for module in features],
        Watched(torch.autograd, "grad", "backward"),
        Watched(torch.autograd, "backward", "backward", afterwards="optimizer"),
        Watched(state.optimizer, "step", "optimizer"),
        *[Watched(dist, name, "communication") for name in _COLLECTIVES],
        Watched(local_exchange, "gather_small", "communication"),
    )


class StepParts:
    """Seconds of the parts of some steps, and of what data processes did for some batches."""

    def __init__(self, state: TrainingState, network: nn.Module, device: torch.device) -> None:
        self._functions = watched_functions(state, network)
        self._watch = stopwatch_of(device)
        self._steps = 0
        self._making_seconds = np.zeros(len(DATA_SECTIONS))
        self._rows = 0

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Time the parts of the step inside."""
        with self._watch.watching(self._functions), self._watch.section("transfer"):
            yield
        self._steps += 1

    def add_making(self, seconds: Tensor) -> None:
        """Count what a data process says of a batch: (B, sections), zeros for what it did not time."""
        self._making_seconds += seconds.sum(0).numpy()
        self._rows += int((seconds.sum(1) > 0).sum())

    def describe(self, meter: Meter, batch_rows: int) -> dict[str, Any]:
        """Seconds of a mean step by section, and of the data process that makes a batch of so many rows.

        Waiting and reporting are those of all steps. Empty where no step or no batch was timed.
        """
        done = max(1, meter.step - meter.first_step)
        of_all = {
            "waiting for data": meter.waited_total / done,
            "reporting": meter.paused_totals["reporting"] / done,
        }
        timed = {name: self._watch.seconds.get(name, 0.0) / max(1, self._steps) for name in STEP_SECTIONS}
        making = self._making_seconds * batch_rows / max(1, self._rows)
        return {
            "timed_steps": self._steps,
            "seconds": {**timed, **of_all} if self._steps else {},
            "data_seconds": dict(zip(DATA_SECTIONS, making.tolist(), strict=True)) if self._rows else {},
        }
