"""Layers and tools that encoders and models share: projectors, numeric precision, recomputed activations."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def full_precision(x: Tensor) -> Tensor:
    """Return float64 unchanged, all else as float32; bfloat16 is too coarse for sums and variances."""
    return x if x.dtype == torch.float64 else x.float()


def in_format_of(network: nn.Module, x: Tensor) -> Tensor:
    """Return maps (B, C, F, L) in channels-last format if the network's convolutions are in that format."""
    is_channels_last = any(
        p.ndim == 4 and p.shape[2] > 1 and p.is_contiguous(memory_format=torch.channels_last)
        for p in network.parameters()
    )
    return x.contiguous(memory_format=torch.channels_last) if is_channels_last else x


def projector(input_dim: int, dims: Sequence[int], ends_in_norm: bool = False) -> nn.Sequential:
    """Build Linear-BN-ReLU for all `dims` but the last, then Linear: (B, input_dim) -> (B, dims[-1]).

    Without dims it is the identity. With `ends_in_norm`, a batch norm without weights follows the last layer.
    """
    layers: list[nn.Module] = []
    for dim in dims[:-1]:  # The batch norm would cancel a bias.
        layers += [nn.Linear(input_dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
        input_dim = dim
    if dims:
        layers.append(nn.Linear(input_dim, dims[-1], bias=not ends_in_norm))
    if dims and ends_in_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=False))
    return nn.Sequential(*layers)


@contextlib.contextmanager
def frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged inside the context; batch norms in training still use the batch."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    saved = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        # Checkpointing requires that both passes save the same tensors, so `track_running_stats` must stay.
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """Return `module(x)`, keeping only `x` for the backward pass, which runs `module` a second time.

    Loss, gradients and running statistics are the same bit for bit; the second run draws the same random
    numbers.
    """
    y: Tensor = checkpoint(
        module,
        x,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), frozen_running_statistics(module)),
    )
    return y
