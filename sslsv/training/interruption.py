"""End a training early, on all its workers after the same step; it goes on elsewhere."""

from collections.abc import Callable

import torch

from sslsv.ops import distributed

# Asking a GPU waits for all the work that is queued on it, so it is asked more seldom.
EVERY_STEPS = {"cpu": 1, "cuda": 8}


class Interrupted(RuntimeError):
    """End every worker once their state is saved: training starts again wherever there is room."""


class Interruption:
    """Agree among the workers whether to stop; `asked` says why this worker was asked to, or None."""

    def __init__(self, asked: Callable[[], str | None], device: torch.device) -> None:
        self.asked, self.device = asked, device

    def is_due(self, step: int) -> bool:
        """Tell every worker the same: whether any was asked.  All must call it after every step."""
        if distributed.world_size() == 1:
            return self.asked() is not None
        if step % EVERY_STEPS.get(self.device.type, 1) != 0:
            return False
        is_asked = torch.tensor(float(self.asked() is not None), device=self.device)
        return bool(distributed.all_reduce_sum(is_asked) > 0)

    def reason(self) -> str:
        """Return why, the same on every worker; every worker must call it."""
        return next(filter(None, distributed.gather_objects(self.asked())), "asked to stop")
