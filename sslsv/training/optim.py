"""Optimisers: which parameters decay, LARS, and gradient clipping."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sslsv.config import OptimizerConfig


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step is scaled, tensor by tensor, to a fixed share of the weights' norm.

    update = grad + weight_decay * w;  update *= trust_coefficient * |w| / |update|;  then momentum.
    Groups with `adapts: False` are plain momentum SGD. Source: You, Gitman, Ginsburg 2017 (arXiv 1708.03888),
    eq. 6, in the form that SSL papers use (the decayed gradient is what gets normalised).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]] | Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapts": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; nothing is read back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in weights if p.grad is not None]
        updates = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["adapts"]:
            weight_norms = torch.stack(torch._foreach_norm(weights))
            update_norms = torch.stack(torch._foreach_norm(updates))
            ratios = group["trust_coefficient"] * weight_norms / update_norms
            # A tensor of zeros has no scale to keep: it takes a plain step.
            ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, torch.ones_like(ratios))
            torch._foreach_mul_(updates, list(ratios.unbind()))
        buffers = []
        for weight in weights:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Optimiser of every trainable parameter: a group that decays, and one (0-D, 1-D) that never does."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("The model has no parameter that requires a gradient; there is nothing to optimise.")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "lars":
        groups[1]["adapts"] = False
    groups = [group for group in groups if group["params"]]
    lr = config.learning_rate
    # One kernel for all tensors; other devices get PyTorch's own default.
    fused = True if all(p.device.type in ("cpu", "cuda") for p in trainable) else None
    match config.name:
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=fused)
        case "lars":
            return LARS(groups, lr=lr, momentum=config.momentum)


def clip_gradients(model: nn.Module, clip_norm: float | None) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most `clip_norm`; returns the norm before, `()`.

    With `clip_norm` None the norm is only measured. The result stays on the device (reading it would stall a
    GPU), and is infinite or NaN where a gradient is.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm.detach()
