"""W-MSE: pull whitened views together. Ermolov et al., ICML 2021, arXiv 2007.06346."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslsv.models.base import Progress, StepOutput
from sslsv.models.fields import LayerDims, TwoViewConfig
from sslsv.models.terms import feature_std, on_device
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import refuse_if, section


def whiten(rows: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Return the rows (..., n, P), centred and whitened by the Cholesky factor of their covariance.

    With the unbiased covariance S and S' = (1 - shrinkage) * S + shrinkage * I = L L^T, a row x becomes
    L^-1 (x - mean). Without shrinkage, the new covariance is I, and multiplying rows by a lower triangular
    matrix with a positive diagonal does not change the result. In float64, because a factor of 64 dimensions
    from 128 rows loses 3 to 4 digits. NaN where S' is singular, as for n <= P without shrinkage.
    """
    rows = rows.double()
    centred = rows - rows.mean(-2, keepdim=True)
    covariance = (1 - shrinkage) * (centred.mT @ centred) / (rows.shape[-2] - 1)
    covariance = covariance + shrinkage * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    # Unlike `cholesky`, this does not wait for the GPU to check for failures.
    factor, failures = torch.linalg.cholesky_ex(covariance)
    is_singular = rows.shape[-2] <= rows.shape[-1] and shrinkage == 0  # rounding may hide it in `failures`
    factor = factor.masked_fill((failures[..., None, None] > 0) | is_singular, torch.nan)
    white: Tensor = torch.linalg.solve_triangular(factor, centred.mT, upper=False)
    return white.mT


def wmse_loss(z_a: Tensor, z_b: Tensor, order: Tensor, group_size: int, shrinkage: float = 0.0) -> Tensor:
    """Return 2 - 2 * mean cosine of projections (B, P), (B, P) whitened in groups, from 0 to 4; equation 7.

    The permutation `order` (B,) of the rows is cut into groups of `group_size`, the same for both views. Each
    view of a group is whitened separately. Independent views give 2. The result is in float64.
    """
    groups = order.view(-1, group_size)
    white_a, white_b = whiten(z_a[groups], shrinkage), whiten(z_b[groups], shrinkage)  # (groups, n, P) each
    return 2 - 2 * F.cosine_similarity(white_a, white_b, dim=-1).mean()


class WMSE(TwoViewModel):
    """Pull whitened projections of two views together: whitening keeps them from collapsing."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of W-MSE; the defaults are those published for VoxCeleb."""

        name: Literal["wmse"] = "wmse"
        projector_dims: LayerDims = (1024, 64)
        group_size: Annotated[int, Field(ge=2, description="utterances whitened together")] = 128
        num_partitions: Annotated[int, Field(ge=1, description="random groupings of a batch, averaged")] = 1
        shrinkage: Annotated[float, Field(ge=0, lt=1, description="identity's share of covariances")] = 0.0

        def __post_init__(self) -> None:
            refuse_if(
                not self.projector_dims,
                "projector_dims is empty, but whitening needs few dimensions: let it end with 64",
            )
            last_dim = self.projector_dims[-1]
            refuse_if(
                self.group_size < 2 * last_dim,
                f"group_size is {self.group_size}, and whitening the projector's last layer of {last_dim} "
                f"units needs twice as many utterances; raise it to {2 * last_dim}, or use fewer units",
            )

        def check_batch_size(self, batch_size: int) -> None:
            """Refuse a global batch size that is not a multiple of the group size."""
            refuse_if(
                batch_size % self.group_size > 0,
                f"train.batch_size is {batch_size}, not a multiple of model.group_size "
                f"({self.group_size}); use a multiple of it, or another group size",
            )

    config: Config

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return the mean loss over the step's random partitions, which are the same on all workers.

        `projection_feature_std` reveals a collapse, which the loss does not: the metric is 0 for equal
        projections. A complete collapse can't be whitened and gives NaN.
        """
        config, generator = self.config, progress.generator()
        orders = [torch.randperm(len(z_a), generator=generator) for _ in range(config.num_partitions)]
        losses = [
            wmse_loss(z_a, z_b, order, config.group_size, config.shrinkage)
            for order in on_device(torch.stack(orders), z_a.device)
        ]
        spread = feature_std(torch.cat([z_a, z_b]).detach())
        return StepOutput(torch.stack(losses).mean().to(z_a.dtype), {"projection_feature_std": spread})
