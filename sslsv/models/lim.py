"""LIM: tell pairs of one utterance from pairs of two. Ravanelli and Bengio, arXiv 1812.00271."""

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
    """Return for each of `count` rows (2 or more) another one, uniform over the others: (count,), CPU."""
    return (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count


def lim_loss(objective: str, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the objective for scores (B,) of positive pairs and scores (B,) of negative pairs.

    bce: binary cross entropy; cosines have no temperature, so it can't fall below 2 ln(1 + 1/e), or 0.63.
    mine: the negative Donsker-Varadhan bound. nce: InfoNCE of each positive against all negatives. A constant
    added to all scores changes bce only. If all scores are 0 the values are 2 ln 2, 0 and ln(B + 1).
    """
    if objective == "bce":
        return F.softplus(-positives).mean() + F.softplus(negatives).mean()
    if objective == "mine":
        return negatives.exp().mean().log() - positives.mean()
    return (torch.logaddexp(positives, negatives.logsumexp(0)) - positives).mean()


class LIM(TwoViewModel):
    """Tell the positive of each utterance from one random negative of the global batch (local info max)."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of LIM; the defaults are those published for VoxCeleb."""

        name: Literal["lim"] = "lim"
        objective: Annotated[Literal["bce", "mine", "nce"], Field(description="what is maximised")] = "nce"

    config: Config

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return the objective; `accuracy` is the share of rows whose positive exceeds their negative.

        Scores are cosines, as in the recipe for VoxCeleb; the paper's discriminator is a network. The
        negatives of a step are the same on all workers, and those of NCE are all of the global batch.
        """
        others = on_device(draw_others(len(z_a), progress.generator()), z_a.device)
        positives, negatives = F.cosine_similarity(z_a, z_b), F.cosine_similarity(z_a, z_b[others])
        loss = lim_loss(self.config.objective, positives, negatives)
        return StepOutput(loss, {"accuracy": (positives > negatives).to(loss.dtype).mean()})
