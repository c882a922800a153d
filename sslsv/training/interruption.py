"""A training that is asked to stop early, by all its workers after the same step, and goes on elsewhere."""

from collections.abc import Callable

import torch

from sslsv.ops import distributed

# On a GPU, asking waits for all work that was queued; so it is asked more seldom.
EVERY_STEPS = {"cpu": 1, "cuda": 8}


class Interrupted(RuntimeError):
    """Raised on every worker once their state is saved: start again, wherever there is room."""


class Interruption:
    """Whether the workers should stop now; `asked` says why this one was asked to, or None."""

    def __init__(self, asked: Callable[[], str | None], device: torch.device) -> None:
        self.asked, self.device = asked, device

    def is_due(self, step: int) -> bool:
        """Whether any worker was asked; every worker must call it after every step, and hears the same."""
        if distributed.world_size() == 1:
            return self.asked() is not None
        if step % EVERY_STEPS.get(self.device.type, 1) != 0:
            return False
        is_asked = torch.tensor(float(self.asked() is not None), device=self.device)
        return bool(distributed.all_reduce_sum(is_asked) > 0)

    def reason(self) -> str:
        """Why, the same on every worker; every worker must call it."""
        return next(filter(None, distributed.gather_objects(self.asked())), "asked to stop")
