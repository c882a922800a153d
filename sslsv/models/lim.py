"""LIM: tell pairs of one utterance from pairs of two. Ravanelli and Bengio, arXiv 1812.00271."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslsv.models.base import Progress, StepOutput
from sslsv.models.fields import TwoViewConfig
from sslsv.models.terms import moved
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


def draw_others(count: int, generator: torch.Generator) -> Tensor:
    """Return for each of `count` rows another one, uniform over all but itself: (count,) on the CPU.

    Needs at least two rows.
    """
    return (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count


def lim_scores(z_a: Tensor, z_b: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines (B,) of projections (B, P): of the two views of a row, and of view a with another's b.

    The discriminator of the paper is a network; here, as in the recipe for VoxCeleb, it is the cosine.
    """
    return F.cosine_similarity(z_a, z_b), F.cosine_similarity(z_a, z_b[others])


def bce_loss(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the binary cross entropy of scores (B,), the sum of the means over both kinds of pairs.

    Scores of 0 give 2 ln 2. Cosines have no temperature, so it can't fall below 2 ln(1 + 1/e), or 0.63.
    """
    return F.softplus(-positives).mean() + F.softplus(negatives).mean()


def mine_loss(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the negative Donsker-Varadhan bound: log mean exp of the negatives less mean of the positives.

    The same added to all scores changes nothing. Scores of 0 give 0.
    """
    return negatives.exp().mean().log() - positives.mean()


def nce_loss(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean of -log of each positive's share among itself and all negatives of the batch.

    The same added to all scores changes nothing. Scores of 0 give ln(B + 1).
    """
    return (torch.logaddexp(positives, negatives.logsumexp(0)) - positives).mean()


OBJECTIVES = {"bce": bce_loss, "mine": mine_loss, "nce": nce_loss}


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

        The negatives of a step are the same on all workers, and those of NCE are all of the global batch.
        """
        others = moved(draw_others(len(z_a), progress.generator()), z_a.device)
        positives, negatives = lim_scores(z_a, z_b, others)
        loss = OBJECTIVES[self.config.objective](positives, negatives)
        return StepOutput(loss, {"accuracy": (positives > negatives).to(loss.dtype).mean()})
