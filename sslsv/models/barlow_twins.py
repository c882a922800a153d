"""Barlow Twins: make the cross-correlation of two views the identity. Zbontar et al., arXiv 2103.03230."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sslsv.models.base import StepOutput
from sslsv.models.fields import Positives, TwoViewConfig, Weight
from sslsv.models.terms import barlow_twins_loss
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


class BarlowTwins(TwoViewModel):
    """Push the cross-correlation matrix of two views, over the global batch, towards the identity."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of Barlow Twins; the defaults are those published for VoxCeleb."""

        name: Literal["barlow_twins"] = "barlow_twins"
        redundancy_weight: Weight = 0.005  # weight of the correlations between different dimensions
        scale: Annotated[float, Field(gt=0, description="factor of the loss (a sum over dimensions)")] = 0.025
        positives: Positives = None

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted, scaled loss; the metrics are its two terms, unweighted and unscaled."""
        return StepOutput(*barlow_twins_loss(z_a, z_b, self.config.redundancy_weight, self.config.scale))
