"""Barlow Twins: two views' cross-correlation should be the identity. Zbontar et al., arXiv 2103.03230."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sslsv.models.base import StepOutput
from sslsv.models.fields import Positives, TwoViewConfig, Weight
from sslsv.models.terms import barlow_twins_loss
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


class BarlowTwins(TwoViewModel):
    """Make the cross-correlation of two views, taken over the global batch, the identity."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of Barlow Twins; the defaults are those published for VoxCeleb."""

        name: Literal["barlow_twins"] = "barlow_twins"
        redundancy_weight: Weight = 0.005  # weighs the correlations between different dimensions
        scale: Annotated[float, Field(gt=0, description="factor of the loss, a sum over dimensions")] = 0.025
        positives: Positives = None

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the scaled sum of the two terms; the metrics are the unweighted, unscaled ones."""
        return StepOutput(*barlow_twins_loss(z_a, z_b, self.config.redundancy_weight, self.config.scale))
