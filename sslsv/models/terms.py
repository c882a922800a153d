"""Loss terms of several methods, as functions of the rows of the global batch, without communication."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NUM_DIRECTIONS = 1024  # random directions of SIGReg as a regularizer, as in its paper


def variance_hinge(z: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Return the mean over dimensions of max(0, target_std - sqrt(Var + eps)), with unbiased variances.

    Source: VICReg (arXiv 2105.04906), equation 1. Needs at least two rows.
    """
    # On CPUs, Tensor.var over the rows takes several times as long as this expression.
    variance = (z - z.mean(0)).square().sum(0) / (z.shape[0] - 1)
    return _hinge(variance, target_std, eps)


def _hinge(variance: Tensor, target_std: float, eps: float) -> Tensor:
    return F.relu(target_std - (variance + eps).sqrt()).mean()


class _GramProducts(torch.autograd.Function):
    """Compute energy (sum of squares off the diagonal) and diagonal of z_a^T z_b (None: z_b is z_a).

    Both come from the Gram matrices z z^T, whose symmetry autograd does not use: the gradient written by hand
    needs half as many matrix products.
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
            column_factors = 2 * diagonal_grad - 4 * energy_grad * diagonal
            return torch.addcmul(4 * energy_grad * gram_a @ z_a, z_a, column_factors), None
        column_factors = diagonal_grad - 2 * energy_grad * diagonal
        return (
            torch.addcmul(2 * energy_grad * gram_b @ z_a, z_b, column_factors),
            torch.addcmul(2 * energy_grad * gram_a @ z_b, z_a, column_factors),
        )


def cross_products(z_a: Tensor, z_b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum over i != j of ((z_a^T z_b)_ij)^2 of rows (B, P), and the diagonal (P,) of z_a^T z_b.

    Without `z_b`, z_a takes its place. For B < P the P x P matrix is never built: the same value is the sum
    over (z_a z_a^T) * (z_b z_b^T), B x B matrices, minus the sum of the squared diagonal.
    """
    num_rows, num_dims = z_a.shape
    if num_rows < num_dims:
        energy, diagonal = _GramProducts.apply(z_a, z_b)
        return energy, diagonal
    products = z_a.T @ (z_a if z_b is None else z_b)
    diagonal = products.diagonal()
    return products.square().sum() - diagonal.square().sum(), diagonal


def variance_and_covariance(z: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Return `variance_hinge`, and the sum of the squared off-diagonal covariances divided by P.

    Variances and covariances are unbiased, from one centred copy of `z` (B, P). Source: VICReg (arXiv
    2105.04906), equations 1, 3 and 4.
    """
    num_rows, num_dims = z.shape
    energy, squares = cross_products(z - z.mean(0))
    return _hinge(squares / (num_rows - 1), target_std, eps), energy / (num_dims * (num_rows - 1) ** 2)


def correlation_penalty(z: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the mean over all P * P entries of the squared correlations, with a diagonal of 0.

    Columns are centred and L2-normalised over the batch, so the value lies in [0, 1) whatever their scale.
    Source: VIbCReg (arXiv 2109.00783), the normalised covariance.
    """
    energy, _ = cross_products(F.normalize(z - z.mean(0), dim=0, eps=eps))
    return energy / z.shape[1] ** 2


def weighted(terms: Mapping[str, Tensor], weights: Sequence[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of named terms, with weights in the same order, and the detached terms."""
    total = torch.stack([w * term for w, term in zip(weights, terms.values(), strict=True)]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def vicreg_loss(z_a: Tensor, z_b: Tensor, *weights: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return VICReg of projections (B, P), (B, P), and its terms: arXiv 2105.04906, equation 6.

    The weights are for invariance, variance and covariance. Variance and covariance are sums over the views,
    as in the paper; the authors' code halves the variance, so their 25, 25, 1 are 25, 12.5, 1 here.
    Invariance is the mean over all entries, as in the authors' code and as for the weights published for
    speakers (1, 1, 0.1); the paper sums over P.
    """
    (variance_a, covariance_a), (variance_b, covariance_b) = map(variance_and_covariance, (z_a, z_b))
    terms = {
        "invariance": F.mse_loss(z_a, z_b),
        "variance": variance_a + variance_b,
        "covariance": covariance_a + covariance_b,
    }
    return weighted(terms, weights)


def barlow_twins_loss(
    z_a: Tensor, z_b: Tensor, redundancy_weight: float, scale: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Barlow Twins of projections (B, P), (B, P), and its terms: arXiv 2103.03230, equation 1.

    The loss is scale * [sum_i (1 - C_ii)^2 + redundancy_weight * sum_{i != j} C_ij^2], with sums over
    dimensions, not means. C is the batch cross-correlation of columns, which are standardised here with
    biased deviations (as in a batch norm, eps 1e-5). The paper has no scale; its code multiplies by 0.024.
    """
    num_rows = z_a.shape[0]
    energy, diagonal = cross_products(*(F.batch_norm(z, None, None, training=True) for z in (z_a, z_b)))
    terms = {"invariance": (1 - diagonal / num_rows).square().sum(), "redundancy": energy / num_rows**2}
    return weighted(terms, (scale, scale * redundancy_weight))


def koleo(rows: Tensor, eps: float = 1e-8) -> Tensor:
    """Return minus the mean log distance of each L2-normalised row (N, D) to its nearest other row.

    Both rows of a pair get a gradient. Identical rows get distance 1e-6 and no gradient, which would be huge
    and have a random direction. Source: Sablayrolles et al., ICLR 2019 (arXiv 1806.03198), KoLeo.
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


def sigreg(rows: Tensor, generator: torch.Generator, num_directions: int) -> Tensor:
    """Return LeJEPA's measure of how far rows (..., N, P) are from a standard normal distribution.

    Rows are projected onto random directions, the same for all leading dimensions. For each direction, the
    squared distance between the empirical characteristic function of the N projections and that of N(0, 1) is
    weighted by exp(-t^2 / 2), integrated over t from -3 to 3 (trapezoidal rule, 17 knots on one half) and
    multiplied by N. The result is the mean over directions and leading dimensions. Its expected value is
    1.0525 for normal rows, whatever N and P; rows of zeros give 0.40205 * N. Rows are not normalised. The
    backward pass keeps 17 * num_directions values per row.

    `generator`, on the CPU, must be the same on all workers. Source: Balestriero and LeCun (arXiv
    2511.08544), the Epps-Pulley statistic.
    """
    directions = torch.randn(rows.shape[-1], num_directions, generator=generator)
    directions = on_device(F.normalize(directions, dim=0), rows.device).to(rows.dtype)
    t = torch.arange(17, dtype=rows.dtype, device=rows.device) * (3 / 16)
    normal = (-t.square() / 2).exp()
    widths = torch.full_like(t, 2 * 3 / 16)
    widths[:: len(t) - 1] /= 2
    angles = (rows @ directions)[..., None] * t  # (..., N, directions, knots)
    errors = (angles.cos().mean(-3) - normal).square() + angles.sin().mean(-3).square()
    return rows.shape[-2] * (errors @ (widths * normal)).mean()


def regularizer_terms(names: Sequence[str], views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the named terms of embeddings (V, N, D), unweighted, each averaged over the V views.

    "koleo" pushes nearest neighbours apart. "variance" and "covariance" are VICReg's terms. "sigreg" is
    LeJEPA's distance to a standard normal distribution, along directions drawn by the generator. All terms
    except "koleo" depend on the scale of the embeddings, which are not normalised.
    """
    terms: dict[str, Tensor] = {}
    if "koleo" in names:
        terms["koleo"] = torch.stack([koleo(rows) for rows in views]).mean()
    if "variance" in names or "covariance" in names:
        pairs = [torch.stack(variance_and_covariance(rows)) for rows in views]
        terms["variance"], terms["covariance"] = torch.stack(pairs).mean(0).unbind()
    if "sigreg" in names:
        terms["sigreg"] = sigreg(views, generator, NUM_DIRECTIONS)
    return {name: terms[name] for name in names}


def on_device(draws: Tensor, device: torch.device) -> Tensor:
    """Copy random numbers drawn on the CPU to the device, without waiting for a GPU."""
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)
