"""Parts of DINO and SDPN: a head that ends in a bottleneck of unit vectors, prototypes, a base class."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sslsv.models.base import Progress, ViewGroup, clip_each
from sslsv.models.two_view import TeacherModel
from sslsv.ops.layers import full_precision


class BottleneckHead(nn.Module):
    """Map embeddings (N, D) to unit vectors (N, P): Linear-BN-GELU for all dims but the last, then Linear.

    `hidden` and `to_bottleneck` are its two halves. A `wide_dim` above 0 appends a linear layer of that size
    to the first half (RDINO). Weights are initialised as in DINO: truncated normal with deviation 0.02,
    biases 0. Source: Caron et al., ICCV 2021 (arXiv 2104.14294), with batch norm, as usual for speakers.
    """

    def __init__(self, input_dim: int, dims: Sequence[int], wide_dim: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dim in dims[:-1]:
            # The batch norm would cancel a bias, so there is none; DINO's own layers have a bias.
            layers += [nn.Linear(input_dim, dim, bias=False), nn.BatchNorm1d(dim), nn.GELU()]
            input_dim = dim
        if wide_dim:
            layers.append(nn.Linear(input_dim, wide_dim))
            input_dim = wide_dim
        self.hidden = nn.Sequential(*layers)
        self.bottleneck = nn.Linear(input_dim, dims[-1])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return unit vectors, at least float32."""
        return self.to_bottleneck(self.hidden(embeddings))

    def to_bottleneck(self, hidden: Tensor) -> Tensor:
        """Return unit vectors (N, P) of the output of `hidden`."""
        return F.normalize(full_precision(self.bottleneck(hidden)), dim=1)


class Prototypes(nn.Module):
    """Hold `count` directions; a call returns them as unit rows (count, dim), in float32 or float64.

    This is a weight-normalised linear layer with gains of 1: its products with unit vectors are cosines.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(count, dim).uniform_(-bound, bound))

    def forward(self) -> Tensor:
        """Return the prototypes as unit rows."""
        return F.normalize(full_precision(self.weight), dim=1)


class PrototypeModel(TeacherModel):
    """Hold an encoder, a head and prototypes, for long and short views; embeddings come from the teacher."""

    embedder = "teacher.encoder"

    def __init__(self, config: Any, encoder: nn.Module, long: ViewGroup, wide_dim: int = 0) -> None:
        super().__init__(config)
        self.views = (long, ViewGroup("short", config.num_short, config.short_seconds))
        self.encoder = encoder
        self.head = BottleneckHead(int(encoder.embedding_dim), config.head_dims, wide_dim)  # type: ignore[arg-type]
        self.prototypes = Prototypes(config.num_prototypes, config.head_dims[-1])

    def before_step(self, progress: Progress) -> None:
        """Clip each tensor's gradient separately."""
        clip_each(self.parameters(), self.config.tensor_clip_norm)


class _LogSumExp(torch.autograd.Function):
    """Compute the cosines of one view at a time, and recompute them in the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        sums = torch.stack([(view / temperature @ prototypes.T).logsumexp(1) for view in rows])
        ctx.save_for_backward(rows, prototypes, sums)
        ctx.temperature = temperature
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, prototypes, sums = ctx.saved_tensors
        scaled = gradients / ctx.temperature
        rows_grad, prototypes_grad = torch.empty_like(rows), torch.zeros_like(prototypes)
        for i, view in enumerate(rows):
            softmax = (view / ctx.temperature @ prototypes.T).sub_(sums[i, :, None]).exp_()
            weights = softmax.mul_(scaled[i, :, None])
            rows_grad[i] = weights @ prototypes
            prototypes_grad.addmm_(weights.T, view)
        return rows_grad, prototypes_grad, None


def log_sum_exp(rows: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Return log sum over k of exp(row . prototype_k / temperature): (V, B, P), (K, P) -> (V, B).

    Only the (B, K) logits of one view are in memory at any time. The backward pass recomputes them: four
    matrix products in total instead of three.
    """
    return _LogSumExp.apply(rows, prototypes, temperature)  # type: ignore[no-any-return]
