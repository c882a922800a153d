"""VICReg: invariance, variance and covariance of two views. Bardes et al., ICLR 2022, arXiv 2105.04906."""

from typing import Literal

from torch import Tensor

from sslsv.models.base import StepOutput
from sslsv.models.fields import Positives, TwoViewConfig, Weight
from sslsv.models.terms import vicreg_loss
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import section


class VICReg(TwoViewModel):
    """Pull views together, keep each dimension's standard deviation up, decorrelate dimensions."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of VICReg; the defaults are those published for VoxCeleb."""

        name: Literal["vicreg"] = "vicreg"
        invariance_weight: Weight = 1.0  # pulls the two views together
        variance_weight: Weight = 1.0  # keeps each dimension's standard deviation above 1, against collapse
        covariance_weight: Weight = 0.1  # decorrelates dimensions
        positives: Positives = None

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum of the three terms; the metrics are the unweighted terms."""
        c = self.config
        return StepOutput(*vicreg_loss(z_a, z_b, c.invariance_weight, c.variance_weight, c.covariance_weight))
