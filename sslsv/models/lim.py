"""LIM: distinguish pairs of one utterance from pairs of two. Ravanelli and Bengio, arXiv 1812.00271."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslsv.models.base import Progress, StepOutput
from sslsv.models.fields import TwoViewConfig
from sslsv.models.terms import on_device
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


def draw_others(count: int, generator: torch.Generator) -> Tensor:
    """Return a random other row for each of `count` rows (2 or more), uniformly drawn: (count,), CPU."""
    return (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count


def lim_loss(objective: str, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the objective for scores (B,) of positive pairs and scores (B,) of negative pairs.

    bce is binary cross entropy; on cosines without a temperature it can't fall below 2 ln(1 + 1/e), or 0.63.
    mine is the negative Donsker-Varadhan bound. nce is InfoNCE of each positive against all negatives. Adding
    a constant to all scores changes bce only. If all scores are 0, the values are 2 ln 2, 0 and ln(B + 1).
    """
    if objective == "bce":
        return F.softplus(-positives).mean() + F.softplus(negatives).mean()
    if objective == "mine":
        return negatives.exp().mean().log() - positives.mean()
    return (torch.logaddexp(positives, negatives.logsumexp(0)) - positives).mean()


class LIM(TwoViewModel):
    """Distinguish each utterance's positive from random negatives of the global batch (local info max)."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of LIM; the defaults are those published for VoxCeleb."""

        name: Literal["lim"] = "lim"
        objective: Annotated[Literal["bce", "mine", "nce"], Field(description="loss on pair scores")] = "nce"

    config: Config

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return the loss; `accuracy` is the share of rows whose positive scores higher than their negative.

        Scores are cosines, as in the recipe for VoxCeleb; the paper's discriminator is a network. The random
        negatives are the same on all workers, and nce uses all negatives of the global batch.
        """
        others = on_device(draw_others(len(z_a), progress.generator()), z_a.device)
        positives, negatives = F.cosine_similarity(z_a, z_b), F.cosine_similarity(z_a, z_b[others])
        loss = lim_loss(self.config.objective, positives, negatives)
        return StepOutput(loss, {"accuracy": (positives > negatives).to(loss.dtype).mean()})
