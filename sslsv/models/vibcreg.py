"""VIbCReg: VICReg with normalised covariance and whitening projector. Lee and Aune, arXiv 2109.00783."""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, StepOutput
from sslsv.models.fields import LayerDims, Positives, TwoViewConfig, Weight
from sslsv.models.terms import correlation_penalty, variance_hinge, weighted
from sslsv.models.two_view import TwoViewModel
from sslsv.ops.whitening import IterNorm
from sslsv.settings import refuse_if, section


def vibcreg_loss(z_a: Tensor, z_b: Tensor, *weights: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return VIbCReg of projections (B, P), (B, P), and its terms.

    The weights are for invariance (mean over all entries), variance and covariance (sums over the two views).
    The covariance term uses correlations and is divided by P^2, not by P as in VICReg. It does not grow with
    P, so its usual weight (8) is much larger.
    """
    terms = {
        "invariance": F.mse_loss(z_a, z_b),
        "variance": variance_hinge(z_a) + variance_hinge(z_b),
        "covariance": correlation_penalty(z_a) + correlation_penalty(z_b),
    }
    return weighted(terms, weights)


class VIbCReg(TwoViewModel):
    """Whiten projections, pull views together, keep each dimension's deviation up, decorrelate dimensions."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of VIbCReg; none are published for speakers."""

        name: Literal["vibcreg"] = "vibcreg"
        projector_dims: LayerDims = (2048, 2048, 2048)  # empty: no projector and no whitening
        whitening_groups: Annotated[int, Field(ge=0, description="separately whitened groups; 0 = none")] = 64
        invariance_weight: Weight = 1.0  # pulls the two views together
        variance_weight: Weight = 1.0  # keeps each dimension's deviation at 1 or above, against collapse
        covariance_weight: Weight = 8.0  # decorrelates dimensions
        positives: Positives = None

        def __post_init__(self) -> None:
            last_dim = self.projector_dims[-1] if self.projector_dims else 0
            refuse_if(
                self.whitening_groups > 0 and last_dim % self.whitening_groups > 0,
                f"whitening_groups is {self.whitening_groups}, which does not divide the projector's last "
                f"layer of {last_dim}; choose a divisor of it, or 0 for no whitening",
            )

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        if config.projector_dims and config.whitening_groups:
            self.projector.append(IterNorm(config.projector_dims[-1], config.whitening_groups))

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum of the three terms; the metrics are the unweighted terms."""
        c = self.config
        weights = c.invariance_weight, c.variance_weight, c.covariance_weight
        return StepOutput(*vibcreg_loss(z_a, z_b, *weights))
