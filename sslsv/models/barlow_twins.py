"""Barlow Twins: two views' cross-correlation should be the identity. Zbontar et al., arXiv 2103.03230."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sslsv.models.base import StepOutput, TwoViewModel
from sslsv.models.fields import CropSeconds, LayerDims, Regularizers, Weight
from sslsv.models.terms import cross_products, standardize, weighted_sum
from sslsv.settings import section


def barlow_twins_terms(z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
    """Return the two terms of `barlow_twins_loss`, unweighted, by name."""
    rows = z_a.shape[0]
    energy, diagonal = cross_products(standardize(z_a), standardize(z_b))
    return {"invariance": (1 - diagonal / rows).square().sum(), "redundancy": energy / rows**2}


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, redundancy_weight: float, scale: float) -> Tensor:
    """Return Barlow Twins of projections (B, P), (B, P), equation 1, times `scale`.

    scale * [sum_i (1 - C_ii)^2 + redundancy_weight * sum_{i != j} C_ij^2], sums over dimensions, not means. C
    is the cross-correlation over the batch, of columns standardised here with biased deviations (as a batch
    norm does, eps 1e-5). The paper has no scale; its authors' code multiplies by 0.024.
    """
    return weighted_sum(barlow_twins_terms(z_a, z_b), term_weights(redundancy_weight, scale))


def term_weights(redundancy_weight: float, scale: float) -> dict[str, float]:
    """Return the weights of the terms in the sum."""
    return {"invariance": scale, "redundancy": scale * redundancy_weight}


class BarlowTwins(TwoViewModel):
    """Redundancy reduction between two views, correlated over the global batch."""

    @section
    class Config:
        """Settings of Barlow Twins; the defaults are those published for VoxCeleb."""

        name: Literal["barlow_twins"] = "barlow_twins"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = (2048, 2048, 512)
        redundancy_weight: Weight = 0.005  # weighs the correlations between different dimensions
        scale: Annotated[
            float, Field(gt=0, description="factor of the loss, which is a sum over dimensions")
        ] = 0.025
        regularizers: Regularizers = ()

    config: Config

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the scaled sum of the two terms; the metrics are the unweighted, unscaled ones."""
        terms = barlow_twins_terms(z_a, z_b)
        weights = term_weights(self.config.redundancy_weight, self.config.scale)
        return StepOutput(weighted_sum(terms, weights), {name: term.detach() for name, term in terms.items()})
