"""The end of a residual block as one operation: relu(shortcut + y * gates), gates by squeeze and excitation.

As separate operations it passes over the feature maps a dozen times forward and backward; on a CPU that
traffic, not arithmetic, is what it costs. Here gradients of gates, mean, sum and ReLU share their passes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def gated_residual(y: Tensor, shortcut: Tensor, squeeze: nn.Linear, excite: nn.Linear) -> Tensor:
    """Return relu(shortcut + y * sigmoid(excite(relu(squeeze(mean of y over its map))))), (B, C, F, L).

    Maps y and shortcut keep their precision, all else is float32 or float64. Second derivatives can't be had.
    """
    with torch.autocast(y.device.type, enabled=False):
        parameters = (squeeze.weight, squeeze.bias, excite.weight, excite.bias)
        out: Tensor = _GatedResidual.apply(y, shortcut, *parameters)
        return out


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, shortcut: Tensor, squeeze: Tensor, bias: Tensor, excite: Tensor, offset: Tensor
    ) -> Tensor:
        mean = _sum_of_map(y).to(squeeze.dtype) / (y.shape[2] * y.shape[3])
        hidden = torch.addmm(bias, mean, squeeze.T).relu_()
        gates = torch.addmm(offset, hidden, excite.T).sigmoid_()
        out = torch.addcmul(shortcut, y, _over_map(gates, y)).relu_()
        ctx.save_for_backward(y, out, mean, hidden, gates, squeeze, excite)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        y, out, mean, hidden, gates, squeeze, excite = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        of_gates = _sum_of_map(gradient * y).to(gates.dtype)
        of_excite = of_gates * gates * (1 - gates)
        of_squeeze = torch.ops.aten.threshold_backward(of_excite @ excite, hidden, 0)
        of_mean = (of_squeeze @ squeeze) / (y.shape[2] * y.shape[3])
        of_y = torch.addcmul(_over_map(of_mean, y), gradient, _over_map(gates, y))
        of_weights = (of_squeeze.T @ mean, of_squeeze.sum(0), of_excite.T @ hidden, of_excite.sum(0))
        return of_y, gradient, *of_weights


def _sum_of_map(x: Tensor) -> Tensor:
    """Return the sums (B, C) of maps (B, C, F, L), at least float32 but for bfloat16 on a CPU."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # A CPU adds these up six times faster than over (2, 3).
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return rows.sum(1)  # It adds in float32 anyway; asked for a float32 result, it takes a slow path.
    return rows.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def _over_map(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None]
