"""VIbCReg: VICReg with normalised covariance and whitening projector. Lee and Aune, arXiv 2109.00783."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sslsv.models.base import StepOutput, TwoViewModel, check_two_view_settings
from sslsv.models.terms import correlation_penalty, invariance, variance_hinge, weighted_sum
from sslsv.ops.whitening import IterNorm


def vibcreg_terms(z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
    """The three terms of `vibcreg_loss`, unweighted, by name."""
    return {
        "invariance": invariance(z_a, z_b),
        "variance": variance_hinge(z_a) + variance_hinge(z_b),
        "covariance": correlation_penalty(z_a) + correlation_penalty(z_b),
    }


def vibcreg_loss(
    z_a: Tensor, z_b: Tensor, invariance_weight: float, variance_weight: float, covariance_weight: float
) -> Tensor:
    """VIbCReg of projections (B, P), (B, P).

    Invariance is a mean over all entries; variance and covariance are sums over the two views, none halved.
    The covariance term is made of correlations and is divided by P^2, not by P as VICReg's: it does not grow
    with P, which is why its usual weight (8) is so much larger.
    """
    weights = {
        "invariance": invariance_weight,
        "variance": variance_weight,
        "covariance": covariance_weight,
    }
    return weighted_sum(vibcreg_terms(z_a, z_b), weights)


class VIbCReg(TwoViewModel):
    """Variance-invariance-better-covariance regularisation over the global batch."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of VIbCReg."""

        name: Literal["vibcreg"] = "vibcreg"
        crop_seconds: float = 2.0  # length of each of the two views
        projector_dims: tuple[int, ...] = (
            2048,
            2048,
            2048,
        )  # units of its layers; empty = no projector, no whitening
        whitening_groups: int = 64  # groups of the last layer that IterNorm whitens apart; 0 = no whitening
        invariance_weight: float = 1.0  # pulls the two views together
        variance_weight: float = 1.0  # keeps each dimension's deviation at 1 or above, against collapse
        covariance_weight: float = 8.0  # decorrelates dimensions

        def __post_init__(self) -> None:
            """Refuse values that cannot train."""
            check_two_view_settings(self.crop_seconds, self.projector_dims)
            if self.whitening_groups < 0:
                raise ValueError(
                    f"whitening_groups is {self.whitening_groups}; it must be 0 (no whitening) or more."
                )
            if self.projector_dims and self.whitening_groups:
                last = self.projector_dims[-1]
                if last % self.whitening_groups:
                    raise ValueError(
                        f"whitening_groups is {self.whitening_groups}, which does not divide the projector's "
                        f"last layer of {last}; choose a divisor of it, or 0 for no whitening."
                    )

    config: Config

    def __init__(self, config: Config, encoder: nn.Module) -> None:
        super().__init__(config, encoder)
        if config.projector_dims and config.whitening_groups:
            self.projector.append(IterNorm(config.projector_dims[-1], config.whitening_groups))

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Weighted sum of the three terms; the metrics are the unweighted ones."""
        terms = vibcreg_terms(z_a, z_b)
        weights = {name: getattr(self.config, f"{name}_weight") for name in terms}
        return StepOutput(weighted_sum(terms, weights), {name: term.detach() for name, term in terms.items()})
