"""Terms that several losses share; all take full batches of projections (B, P) and know nothing of ranks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def invariance(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean over all B * P entries of (z_a - z_b)^2, as VICReg's authors' code; the paper sums over P."""
    return F.mse_loss(z_a, z_b)


def variance_hinge(z: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Mean over dimensions of max(0, target_std - sqrt(Var + eps)), unbiased variance over the batch.

    Source: VICReg (arXiv 2105.04906), equation 1. Needs at least two rows.
    """
    # On CPUs, Tensor.var down the columns takes several times as long as these passes.
    variance = (z - z.mean(0)).square().sum(0) / (z.shape[0] - 1)
    return _hinge(variance, target_std, eps)


def _hinge(variance: Tensor, target_std: float, eps: float) -> Tensor:
    return F.relu(target_std - (variance + eps).sqrt()).mean()


class _GramProducts(torch.autograd.Function):
    """Off-diagonal energy and diagonal of z_a^T z_b, or of z_a^T z_a for None, from the Gram matrices.

    Its gradient is written out because autograd takes twice the matrix products: it does not know that a
    Gram matrix is symmetric.
    """

    @staticmethod
    def forward(ctx: Any, z_a: Tensor, z_b: Tensor | None) -> tuple[Tensor, Tensor]:
        gram_a = z_a @ z_a.T
        gram_b = gram_a if z_b is None else z_b @ z_b.T
        diagonal = (z_a * (z_a if z_b is None else z_b)).sum(0)
        ctx.save_for_backward(z_a, z_b, gram_a, gram_b, diagonal)
        return (gram_a * gram_b).sum() - diagonal.square().sum(), diagonal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, energy_grad: Tensor, diagonal_grad: Tensor) -> tuple[Tensor, Tensor | None]:
        z_a, z_b, gram_a, gram_b, diagonal = ctx.saved_tensors
        if z_b is None:
            of_columns = 2 * diagonal_grad - 4 * energy_grad * diagonal
            return torch.addcmul(4 * energy_grad * gram_a @ z_a, z_a, of_columns), None
        of_columns = diagonal_grad - 2 * energy_grad * diagonal
        return (
            torch.addcmul(2 * energy_grad * gram_b @ z_a, z_b, of_columns),
            torch.addcmul(2 * energy_grad * gram_a @ z_b, z_a, of_columns),
        )


def cross_products(z_a: Tensor, z_b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum over i != j of ((z_a^T z_b)_ij)^2, and the diagonal of z_a^T z_b: (B, P), (B, P) -> scalar, (P,).

    Without `z_b`, those of z_a^T z_a. For B < P the P * P matrix is never built: its energy is that of the
    Gram matrices, <z_a z_a^T, z_b z_b^T>, less the diagonal's: P / B times cheaper, and exact.
    """
    rows, dims = z_a.shape
    if rows < dims:
        energy, diagonal = _GramProducts.apply(z_a, z_b)
        return energy, diagonal
    products = z_a.T @ (z_a if z_b is None else z_b)
    diagonal = products.diagonal()
    return products.square().sum() - diagonal.square().sum(), diagonal


def variance_and_covariance(z: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """`variance_hinge`, and the sum of the squared off-diagonal entries of the unbiased covariance over P.

    Both come from one centred copy of `z` (B, P).  Source: VICReg (arXiv 2105.04906), equations 1, 3 and 4.
    """
    rows, dims = z.shape
    energy, squares = cross_products(z - z.mean(0))
    return _hinge(squares / (rows - 1), target_std, eps), energy / (dims * (rows - 1) ** 2)


def correlation_penalty(z: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean over all P * P entries of the squared off-diagonal correlations (the diagonal counts as 0).

    Columns are centred and L2-normalised over the batch, so the value lies in [0, 1) whatever their scale.
    Source: VIbCReg (arXiv 2109.00783), the normalised covariance.
    """
    energy, _ = cross_products(F.normalize(z - z.mean(0), dim=0, eps=eps))
    return energy / z.shape[1] ** 2


def standardize(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Columns of mean 0 and biased variance 1 over the batch, (z - mean) / sqrt(Var + eps)."""
    return F.batch_norm(z, None, None, training=True, eps=eps)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of named loss terms, each times its weight; both have the same names."""
    products = [weights[name] * term for name, term in terms.items()]
    return torch.stack(products).sum()


def koleo(rows: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean log of the distance of each L2-normalised row (N, D) to the nearest of the others.

    Both ends of a distance get a gradient. Equal rows count as 1e-6 apart and get none: it would be huge, in
    a direction of rounding errors.  Source: Sablayrolles et al., ICLR 2019 (arXiv 1806.03198), KoLeo.
    """
    rows = F.normalize(rows, dim=1)
    with torch.no_grad():
        nearest = (rows @ rows.T).fill_diagonal_(-2).argmax(1)
    distances = F.pairwise_distance(rows, rows[nearest], eps=eps)
    return -(distances.clamp(min=1e-6) + eps).log().mean()


def feature_std(embeddings: Tensor) -> Tensor:
    """Return the mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(D).

    It is about 1 when directions are isotropic, 0 when all rows point the same way. Source: Chen and He, CVPR
    2021 (SimSiam, arXiv 2011.10566), section 4.1. The deviation is the biased one, so one row gives 0.
    """
    rows = F.normalize(embeddings, dim=1)
    std: Tensor = rows.std(0, correction=0).mean()
    return std * math.sqrt(embeddings.shape[1])
