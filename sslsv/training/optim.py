"""Build the optimiser (including LARS), compute the learning rate of each step, and clip gradients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from sslsv.config import OptimizerConfig, ScheduleConfig

TRUST_COEFFICIENT = 1e-3  # LARS: norm of a step relative to the weights, at a learning rate of 1


class LARS(torch.optim.Optimizer):
    """Take steps of momentum SGD, scaled tensor by tensor to a fixed share of the weights' norm.

    update = grad + weight_decay * w;  update *= TRUST_COEFFICIENT * |w| / |update|;  then momentum.
    Groups with `adapts: False` are plain momentum SGD. Source: You, Gitman, Ginsburg 2017 (arXiv 1708.03888),
    eq. 6, in the form that SSL papers use (normalisation after the weight decay is added).
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, adapts=True))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; nothing is read back from the device."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = list(
                torch._foreach_add([p.grad for p in weights], weights, alpha=group["weight_decay"])
            )
            if group["adapts"]:
                weight_norms = torch.stack(torch._foreach_norm(weights))
                update_norms = torch.stack(torch._foreach_norm(updates))
                ratios = TRUST_COEFFICIENT * weight_norms / update_norms
                # A tensor of zeros has no scale, so it takes a plain step.
                ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, torch.ones_like(ratios))
                torch._foreach_mul_(updates, list(ratios.unbind()))
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])


def build_optimizer(groups: Sequence[Mapping[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer for a model's `parameter_groups`; raises ValueError if nothing is trainable."""
    trainable = [p for group in groups for p in group["params"]]
    if not trainable:
        raise ValueError(
            "The model has no parameter that requires a gradient, so there is nothing to train; set "
            "encoder.frozen to false, or give the method a projector."
        )
    settings = [
        {
            "params": group["params"],
            "weight_decay": config.weight_decay if group.get("decays", True) else 0.0,
            "rate_scale": group.get("rate_scale", 1.0),
            "follows_schedule": group.get("follows_schedule", True),
            "adapts": group.get("decays", True),  # only LARS reads it
        }
        for group in groups
    ]
    lr = config.learning_rate
    # Fused: one kernel for all tensors. Devices without it get PyTorch's default.
    fused = True if all(p.device.type in ("cpu", "cuda") for p in trainable) else None
    match config.name:
        case "adam":
            return torch.optim.Adam(settings, lr=lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(settings, lr=lr, fused=fused)
        case "sgd":
            optimizer = torch.optim.SGD(
                settings, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
            )
            # The fused kernel refuses a group in which only some tensors have a momentum buffer, which occurs
            # when a method freezes others at first. Buffers of zeros do not change the first step.
            for parameter in trainable if config.momentum else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return optimizer
        case "lars":
            return LARS(settings, lr=lr, momentum=config.momentum)


def encoder_rates(groups: Sequence[Mapping[str, Any]], encoder: Any) -> list[dict[str, Any]]:
    """Split a model's groups so that each has one of the encoder's learning-rate factors (`rate_scale`)."""
    scales = {parameter: encoder.rate_scale(name) for name, parameter in encoder.named_parameters()}
    result = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales.get(parameter, 1.0), []).append(parameter)
        for scale, parameters in by_scale.items():
            rate_scale = scale * group.get("rate_scale", 1.0)
            result.append({**group, "params": parameters, "rate_scale": rate_scale})
    return result


def clip_gradients(model: nn.Module, clip_norm: float | None) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most `clip_norm`; returns the norm before, `()`.

    With `clip_norm` None the norm is only measured. The result stays on the device (reading it would stall a
    GPU), and is infinite or NaN if a gradient is.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return next(model.parameters()).new_zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, norm)
    return norm.detach()


def learning_rate(
    config: ScheduleConfig, base_learning_rate: float, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of optimiser step `step`, which counts from 0 to `total_steps - 1`.

    `cosine` and `warmup_cosine` reach `min_learning_rate` exactly at the last step. The warm-up of
    `warmup_cosine` begins at `base / warmup_steps` (a step of rate 0 would be wasted) and ends at the base.
    Steps past the end keep the last rate. The function is pure, so nothing has to be saved or restored.
    """
    match config.name:
        case "constant":
            return base_learning_rate
        case "step":
            decays = step // steps_per_epoch // config.decay_every_epochs
            return base_learning_rate * config.decay_factor**decays
        case "cosine" | "warmup_cosine":
            epochs = config.warmup_epochs if config.name == "warmup_cosine" else 0.0
            warmup_steps = min(round(epochs * steps_per_epoch), total_steps)
            if step < warmup_steps:
                return base_learning_rate * (step + 1) / warmup_steps
            peak, lowest = max(warmup_steps - 1, 0), config.min_learning_rate
            share = min((step - peak) / max(total_steps - 1 - peak, 1), 1.0)
            return lowest + 0.5 * (base_learning_rate - lowest) * (1 + math.cos(math.pi * share))
        case "warmup_exponential":  # as in wespeaker: it decays from the first step on, also during warm-up
            share = min(step / max(total_steps - 1, 1), 1.0)
            rise = min((step + 1) / max(round(config.warmup_epochs * steps_per_epoch), 1), 1.0)
            return base_learning_rate * rise * math.pow(config.min_learning_rate / base_learning_rate, share)
