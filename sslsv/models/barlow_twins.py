"""Barlow Twins: two views' cross-correlation should be the identity. Zbontar et al., arXiv 2103.03230."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sslsv.models.base import StepOutput
from sslsv.models.fields import CropSeconds, LayerDims, Positives, Regularizers, Weight
from sslsv.models.terms import barlow_twins_terms, barlow_twins_weights, weighted_sum
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


class BarlowTwins(TwoViewModel):
    """Make the cross-correlation of two views, taken over the global batch, the identity."""

    @section
    class Config:
        """Hold the settings of Barlow Twins; the defaults are those published for VoxCeleb."""

        name: Literal["barlow_twins"] = "barlow_twins"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = (2048, 2048, 512)
        redundancy_weight: Weight = 0.005  # weighs the correlations between different dimensions
        scale: Annotated[
            float, Field(gt=0, description="factor of the loss, which is a sum over dimensions")
        ] = 0.025
        positives: Positives = None
        regularizers: Regularizers = ()

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the scaled sum of the two terms; the metrics are the unweighted, unscaled ones."""
        terms = barlow_twins_terms(z_a, z_b)
        weights = barlow_twins_weights(self.config.redundancy_weight, self.config.scale)
        return StepOutput(weighted_sum(terms, weights), {name: term.detach() for name, term in terms.items()})
