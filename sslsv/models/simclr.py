"""SimCLR: find the other view of an utterance among all others. Chen et al., ICML 2020, arXiv 2002.05709."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.models.base import StepOutput, TwoViewModel
from sslsv.models.fields import CropSeconds, LayerDims, Regularizers, Temperature
from sslsv.settings import section


def nt_xent_logits(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return cosines over temperature, (2B, 2B), -inf on the diagonal; and each row's positive, (2B,)."""
    # Scaling the rows before the product is 2B * P work and gradients; scaling after it, 2B * 2B.
    z = F.normalize(torch.cat([z_a, z_b]), dim=1) * temperature**-0.5
    logits = (z @ z.T).fill_diagonal_(-torch.inf)
    positives = torch.arange(len(z), device=z.device).roll(len(z_a))
    return logits, positives


def nt_xent_loss(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent of projections (B, P), (B, P), equation 1 and algorithm 1.

    Symmetric: all 2B projections are anchors, each against its positive and 2B - 2 negatives of both views;
    mean over the anchors, natural logarithm. Rows are L2-normalised here. Some code (the first sslsv among
    it) takes negatives from the other view only, which gives another value.
    """
    return F.cross_entropy(*nt_xent_logits(z_a, z_b, temperature))


class SimCLR(TwoViewModel):
    """Contrastive learning with the negatives of the global batch."""

    @section
    class Config:
        """Settings of SimCLR; the defaults are those with the best published result on VoxCeleb."""

        name: Literal["simclr"] = "simclr"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = ()  # none is best for speakers; images take (2048, 2048, 256)
        temperature: Temperature = 0.03  # a lower one weighs the hardest negatives more
        regularizers: Regularizers = ()

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return NT-Xent; `accuracy` is the share of anchors whose positive is nearest."""
        logits, positives = nt_xent_logits(z_a, z_b, self.config.temperature)
        loss = F.cross_entropy(logits, positives)
        accuracy = (logits.detach().argmax(1) == positives).to(logits.dtype).mean()
        return StepOutput(loss, {"accuracy": accuracy})
