"""Terms that several losses share; all take full batches of projections (B, P) and know nothing of ranks."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def invariance(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean over all B * P entries of (z_a - z_b)^2, as VICReg's authors' code; the paper sums over P."""
    return F.mse_loss(z_a, z_b)


def variance_hinge(z: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Mean over dimensions of max(0, target_std - sqrt(Var + eps)), unbiased variance over the batch.

    Source: VICReg (arXiv 2105.04906), equation 1. Needs at least two rows.
    """
    return F.relu(target_std - (z.var(0) + eps).sqrt()).mean()


def off_diagonal_energy(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Sum over i != j of ((z_a^T z_b)_ij)^2: (B, P), (B, P) -> scalar.

    For B < P the P * P matrix is never built: its energy is that of the Gram matrices, <z_a z_a^T, z_b
    z_b^T>, from which the diagonal is taken away: P / B times cheaper, and exact.
    """
    rows, dims = z_a.shape
    if rows >= dims:
        products = z_a.T @ z_b
        return products.square().sum() - products.diagonal().square().sum()
    gram_a = z_a @ z_a.T
    gram_b = gram_a if z_b is z_a else z_b @ z_b.T
    diagonal = (z_a * z_b).sum(0)
    return (gram_a * gram_b).sum() - diagonal.square().sum()


def covariance_penalty(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of the unbiased covariance, divided by P.

    Source: VICReg (arXiv 2105.04906), equations 3 and 4.
    """
    rows, dims = z.shape
    centred = z - z.mean(0)
    return off_diagonal_energy(centred, centred) / (dims * (rows - 1) ** 2)


def correlation_penalty(z: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean over all P * P entries of the squared off-diagonal correlations (the diagonal counts as 0).

    Columns are centred and L2-normalised over the batch, so the value lies in [0, 1) whatever their scale.
    Source: VIbCReg (arXiv 2109.00783), the normalised covariance.
    """
    unit_columns = F.normalize(z - z.mean(0), dim=0, eps=eps)
    return off_diagonal_energy(unit_columns, unit_columns) / z.shape[1] ** 2


def standardize(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Columns of mean 0 and biased variance 1 over the batch, (z - mean) / sqrt(Var + eps)."""
    return (z - z.mean(0)) * (z.var(0, correction=0) + eps).rsqrt()


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of named loss terms, each times its weight; both have the same names."""
    products = [weights[name] * term for name, term in terms.items()]
    return torch.stack(products).sum()
