"""VICReg: invariance, variance and covariance of two views. Bardes et al., ICLR 2022, arXiv 2105.04906."""

from typing import Literal

from torch import Tensor

from sslsv.models.base import StepOutput, TwoViewModel
from sslsv.models.fields import CropSeconds, LayerDims, Regularizers, Weight
from sslsv.models.terms import invariance, variance_and_covariance, weighted_sum
from sslsv.settings import section


def vicreg_terms(z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
    """Return the three terms of `vicreg_loss`, unweighted, by name."""
    (variance_a, covariance_a), (variance_b, covariance_b) = map(variance_and_covariance, (z_a, z_b))
    return {
        "invariance": invariance(z_a, z_b),
        "variance": variance_a + variance_b,
        "covariance": covariance_a + covariance_b,
    }


def vicreg_loss(
    z_a: Tensor, z_b: Tensor, invariance_weight: float, variance_weight: float, covariance_weight: float
) -> Tensor:
    """Return VICReg of projections (B, P), (B, P), equation 6: weighted invariance, variance, covariance.

    Variance and covariance are sums over the two views, as in the paper. The authors' code halves the
    variance: their 25, 25, 1 is 25, 12.5, 1 here. Invariance is the mean over all entries, as in their code;
    the paper sums over P. Kept this way because the weights published for speakers (1, 1, 0.1) were found
    with it.
    """
    weights = {
        "invariance": invariance_weight,
        "variance": variance_weight,
        "covariance": covariance_weight,
    }
    return weighted_sum(vicreg_terms(z_a, z_b), weights)


class VICReg(TwoViewModel):
    """Variance-invariance-covariance regularisation over the global batch."""

    @section
    class Config:
        """Settings of VICReg; the defaults are those published for VoxCeleb."""

        name: Literal["vicreg"] = "vicreg"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = (2048, 2048, 512)
        invariance_weight: Weight = 1.0  # pulls the two views together
        variance_weight: Weight = 1.0  # keeps each dimension's deviation at 1 or above, against collapse
        covariance_weight: Weight = 0.1  # decorrelates dimensions
        regularizers: Regularizers = ()

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum of the three terms; the metrics are the unweighted ones."""
        terms = vicreg_terms(z_a, z_b)
        weights = {name: getattr(self.config, f"{name}_weight") for name in terms}
        return StepOutput(weighted_sum(terms, weights), {name: term.detach() for name, term in terms.items()})
