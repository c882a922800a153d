"""Batch normalisation over all ranks: the moments of the global batch, on any device."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sslsv.ops import distributed, local_exchange
from sslsv.ops.layers import full_precision


class _GlobalBatchNorm(torch.autograd.Function):
    """Normalise by the moments of all ranks' rows; one small collective forward, one backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, ...]:
        mean, variance = _moments(x)
        count = mean.new_tensor([x.numel() // x.shape[1]])
        moments = local_exchange.gather_small(torch.cat([mean, variance, count]))
        means, variances, counts = moments[:, : len(mean)], moments[:, len(mean) : -1], moments[:, -1:]
        total = counts.sum()
        mean, variance = _merge(means, variances, counts / total)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return _normalize(x, mean, variance, weight, bias, eps), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        # This rank's gradients of weight and bias.
        gradient_weight, gradient_bias = _weight_gradients(gradient, x, mean, variance, ctx.eps)
        # That of x is a line in gradient and x for each channel.  What flows through the moments needs the
        # sums over all ranks.
        sums = torch.cat([gradient_weight, gradient_bias]).to(mean.dtype)
        sums = local_exchange.gather_small(sums).sum(0).view(2, -1)
        inverse_std = (variance + ctx.eps).rsqrt()
        scale = inverse_std if weight is None else inverse_std * weight
        slope = scale * inverse_std * sums[0] / total
        offset = scale * sums[1] / total - slope * mean
        gradient_x = _line(gradient, scale, torch.zeros_like(offset))
        gradient_x -= _line(x, slope, offset)
        if weight is None:
            return gradient_x, None, None, None
        return gradient_x, gradient_weight.to(weight.dtype), gradient_bias.to(weight.dtype), None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,) each, in float32 or float64.

    `torch.var_mean` takes up to fifteen times as long on feature maps whose channels are last.
    """
    channels = x.shape[1]
    if x.dtype == torch.bfloat16 and x.ndim == 4:
        x, pixels = _widen(x)
        unused = torch.zeros(2, x.shape[1])
        means, variances = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        if pixels == 1:
            return means, variances
        weights = means.new_full((pixels, 1), 1 / pixels)
        return _merge(means.view(pixels, -1), variances.view(pixels, -1), weights)
    rows = full_precision(x).movedim(1, -1).reshape(-1, channels)
    mean = rows.mean(0)
    return mean, (rows - mean).square_().mean(0)


def _merge(means: Tensor, variances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of parts together: (parts, C) each, weights (parts, 1) that add up to 1.

    Chan's way: no difference of large squares.
    """
    mean = (means * weights).sum(0)
    return mean, ((variances + (means - mean).square()) * weights).sum(0)


def _weight_gradients(
    gradient: Tensor, x: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Sums over rows of the gradient times the normalised x, and of the gradient: (C,) each."""
    x, pixels = _widen(x)
    if pixels > 1:
        gradient, _ = _widen(gradient.contiguous(memory_format=torch.channels_last))
    _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        gradient,
        x,
        torch.ones_like(mean).repeat(pixels),
        mean.repeat(pixels),
        variance.repeat(pixels),
        None,
        None,
        False,
        eps,
        [False, True, True],
    )
    return of_weight.view(pixels, -1).sum(0), of_bias.view(pixels, -1).sum(0)


def _normalize(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    wide, pixels = _widen(x)
    if pixels == 1:
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    mean, variance = mean.repeat(pixels), variance.repeat(pixels)
    weight, bias = (each if each is None else each.repeat(pixels) for each in (weight, bias))
    y = F.batch_norm(wide, mean, variance, weight, bias, False, 0.0, eps)
    # In place, for a view that leaves an autograd function can't be changed in place, as by a ReLU.
    return y.as_strided_(x.shape, x.stride())


def _line(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """slope * x + offset for each channel; a batch norm with fixed moments is the fastest way on a CPU."""
    return _normalize(x, torch.zeros_like(slope), torch.ones_like(slope), slope, offset, 0.0)


def _widen(x: Tensor) -> tuple[Tensor, int]:
    """The same memory as maps of more channels, and how many pixels' channels now stand side by side.

    PyTorch's kernels go from pixel to pixel: with 16 channels each takes half as long again as with 64.
    """
    if x.ndim != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x, 1
    maps, channels, height, width = x.shape
    pixels = next(n for n in (4, 2, 1) if n == 1 or channels * n <= 64 and height * width % n == 0)
    if pixels == 1:
        return x, 1
    wide = x.permute(0, 2, 3, 1).view(maps, height * width // pixels, 1, channels * pixels)
    return wide.permute(0, 3, 1, 2), pixels


def _normalize_globally(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    outputs = _GlobalBatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
    y, mean, variance, total = outputs
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            momentum = (
                norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked or 1)
            )
            unbiased = variance * (total / (total - 1).clamp_min(1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    return y  # type: ignore[no-any-return]


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose batch is that of all ranks, on any device: (B, C) or (B, C, L).

    Same parameters, buffers and running statistics as one process on the concatenated batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the moments of all ranks while training, with the running ones otherwise."""
        self._check_input_dim(input)
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        return _normalize_globally(self, input)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all ranks, on any device: (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the moments of all ranks while training, with the running ones otherwise."""
        self._check_input_dim(input)
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        return _normalize_globally(self, input)


def synchronize_batchnorm(module: nn.Module) -> nn.Module:
    """The same module with every batch norm seeing the rows of all ranks; parameters and buffers are kept.

    CUDA modules get PyTorch's SyncBatchNorm (so call this after `.to(device)`), which refuses CPU tensors;
    all others get the layers above.
    """
    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for plain, synchronized in ((nn.BatchNorm1d, GlobalBatchNorm1d), (nn.BatchNorm2d, GlobalBatchNorm2d)):
        if type(module) is plain:
            return _with_state_of(module, synchronized)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batchnorm(child))
    return module


def _with_state_of(norm: Any, kind: type[nn.Module]) -> nn.Module:
    copy: Any = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(copy, name, getattr(norm, name))  # the same tensors: an optimiser may hold them already
    copy.train(norm.training)
    return copy  # type: ignore[no-any-return]
