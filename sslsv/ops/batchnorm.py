"""Batch normalisation by the moments of the global batch, for CPUs; GPUs use PyTorch's SyncBatchNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sslsv.ops import distributed
from sslsv.ops.layers import full_precision


class _Normalize(torch.autograd.Function):
    """Normalise by the moments of all ranks' rows, with one small collective forward and one backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, ...]:
        rows = full_precision(x).movedim(1, -1).reshape(-1, x.shape[1])
        mean = rows.mean(0)
        moments = torch.cat([mean, (rows - mean).square_().mean(0), mean.new_tensor([len(rows)])])
        counts = (all_moments := distributed.gather(moments[None]))[:, -1:]
        means, variances = all_moments[:, :-1].chunk(2, dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        # Merging the moments of parts (Chan et al.) avoids a difference of large squares.
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        dtype, gradient = x.dtype, full_precision(gradient)
        normalized = F.batch_norm(full_precision(x), mean, variance, None, None, False, 0.0, ctx.eps)
        dims = [dim for dim in range(x.ndim) if dim != 1]
        # These are the gradients of weight and bias, which DDP averages; x needs the sums over all ranks.
        local = torch.stack([(gradient * normalized).sum(dims), gradient.sum(dims)])
        slope, offset = distributed.all_reduce_sum(local) / total
        scale = (variance + ctx.eps).rsqrt() * (1.0 if weight is None else weight)
        scale, slope, offset = (each.view(-1, *[1] * (x.ndim - 2)) for each in (scale, slope, offset))
        gradient_x = ((gradient - offset).sub_(normalized.mul_(slope)).mul_(scale)).to(dtype)
        if weight is None:
            return gradient_x, None, None, None
        return gradient_x, *local.to(weight.dtype), None


class GlobalBatchNorm(_BatchNorm):
    """Normalise each channel of (B, C, ...) by the batch of all ranks while training.

    Output, gradients and running statistics are those of one process on the concatenated batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input; with one rank or in evaluation mode, this is PyTorch's batch norm."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        return self.normalize_globally(input)

    def normalize_globally(self, x: Tensor) -> Tensor:
        """Normalise by the global batch, and update the running statistics with its moments."""
        y, mean, variance, total = _Normalize.apply(x, self.weight, self.bias, self.eps)
        own: Any = self  # All batch norms of encoders have running statistics and a momentum.
        with torch.no_grad():
            own.num_batches_tracked.add_(1)
            unbiased = variance * (total / (total - 1).clamp_min(1))
            own.running_mean.lerp_(mean.to(own.running_mean.dtype), own.momentum)
            own.running_var.lerp_(unbiased.to(own.running_var.dtype), own.momentum)
        return y  # type: ignore[no-any-return]


def synchronize_batchnorm(module: nn.Module) -> nn.Module:
    """Return the module with every batch norm using the rows of all ranks; its tensors are kept.

    Modules on a GPU get PyTorch's SyncBatchNorm, which does not run on CPUs: call this after `.to(device)`.
    """
    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return, no-untyped-call]
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        norm = GlobalBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(norm, name, getattr(module, name))  # An optimizer may hold these tensors already.
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batchnorm(child))
    return module
