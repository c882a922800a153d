"""Whitening of features by the covariance of the global batch."""

import torch
from torch import Tensor, nn

from sslsv.ops import distributed
from sslsv.ops.layers import full_precision


class IterNorm(nn.Module):
    """Whiten features within groups by Newton's iteration, then scale and shift them: (B, D) -> (B, D).

    Features are split into `num_groups` contiguous groups of D / num_groups. Each group is centred and
    multiplied by an approximate inverse square root of its covariance (biased, plus eps * I). Training uses
    mean and covariance of all ranks, evaluation uses running averages of mean and whitening matrix. Always in
    float32 or float64. More than about 10 iterations make the result worse, because rounding errors grow with
    each iteration after convergence. Source: Huang et al., CVPR 2019 (arXiv 1904.03441), algorithm 1.
    """

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self, dim: int, num_groups: int = 64, iterations: int = 5, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.num_groups, self.iterations, self.eps, self.momentum = num_groups, iterations, eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        group_dim = dim // num_groups
        self.register_buffer("running_mean", torch.zeros(num_groups, group_dim))
        self.register_buffer("running_whitening", torch.eye(group_dim).repeat(num_groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened features, scaled and shifted."""
        with torch.autocast(x.device.type, enabled=False):
            groups = full_precision(x).view(len(x), self.num_groups, -1).transpose(0, 1)  # (G, B, d)
            running = self.running_mean, self.running_whitening
            mean, whitening = self._global_statistics(groups) if self.training else running
            whitened = (groups - mean[:, None]) @ whitening  # The matrix is symmetric: no transpose.
            return torch.addcmul(self.bias, whitened.transpose(0, 1).flatten(1), self.weight)

    def _global_statistics(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        num_rows = groups.shape[1] * distributed.world_size()
        mean = distributed.all_reduce_sum(groups.sum(1)) / num_rows
        centred = groups - mean[:, None]
        covariance = distributed.all_reduce_sum(centred.mT @ centred) / num_rows
        identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        covariance = covariance + self.eps * identity
        # Newton's iteration converges for eigenvalues in (0, 1], so divide by the trace here and undo that at
        # the end.
        inverse_trace = covariance.diagonal(dim1=1, dim2=2).sum(1).reciprocal()[:, None, None]
        normalized = covariance * inverse_trace
        root = identity.expand_as(normalized)
        for _ in range(self.iterations):
            root = 1.5 * root - 0.5 * (root @ root @ root) @ normalized
        whitening = root * inverse_trace.sqrt()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_whitening.lerp_(whitening, self.momentum)
        return mean, whitening
