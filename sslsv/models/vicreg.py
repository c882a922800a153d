"""VICReg: invariance, variance and covariance of two views. Bardes et al., ICLR 2022, arXiv 2105.04906."""

from typing import Literal

from torch import Tensor

from sslsv.models.base import StepOutput
from sslsv.models.fields import CropSeconds, LayerDims, Positives, Regularizers, Weight
from sslsv.models.terms import vicreg_terms, weighted_sum
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


class VICReg(TwoViewModel):
    """Pull views together, keep each dimension's deviation up, decorrelate dimensions."""

    @section
    class Config:
        """Hold the settings of VICReg; the defaults are those published for VoxCeleb."""

        name: Literal["vicreg"] = "vicreg"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = (2048, 2048, 512)
        invariance_weight: Weight = 1.0  # pulls the two views together
        variance_weight: Weight = 1.0  # keeps each dimension's deviation at 1 or above, against collapse
        covariance_weight: Weight = 0.1  # decorrelates dimensions
        positives: Positives = None
        regularizers: Regularizers = ()

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum of the three terms; the metrics are the unweighted ones."""
        terms = vicreg_terms(z_a, z_b)
        weights = {name: getattr(self.config, f"{name}_weight") for name in terms}
        return StepOutput(weighted_sum(terms, weights), {name: term.detach() for name, term in terms.items()})
