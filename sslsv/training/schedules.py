"""Compute the learning rate as a pure function of the step, so that nothing has to be saved or restored."""

import math

from sslsv.config import ScheduleConfig


def learning_rate(
    config: ScheduleConfig, base_learning_rate: float, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of optimiser step `step`, which counts from 0 to `total_steps - 1`.

    The cosines reach `min_learning_rate` exactly at the last step, also after a warm-up; the warm-up starts
    at `base / warmup_steps` (a step of rate 0 would be wasted) and its last step has the base rate.
    Steps past the end keep the last rate.
    """
    match config.name:
        case "constant":
            return base_learning_rate
        case "step":
            decays = step // steps_per_epoch // config.decay_every_epochs
            return base_learning_rate * config.decay_factor**decays
        case "cosine":
            return _cosine(base_learning_rate, config.min_learning_rate, step, 0, total_steps - 1)
        case "warmup_cosine":
            warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
            if step < warmup_steps:
                return base_learning_rate * (step + 1) / warmup_steps
            top = max(warmup_steps - 1, 0)
            return _cosine(base_learning_rate, config.min_learning_rate, step, top, total_steps - 1)


def _cosine(highest: float, lowest: float, step: int, first_step: int, last_step: int) -> float:
    """Return half a cosine from `highest` at `first_step` to `lowest` at `last_step`; exact at both ends."""
    if last_step <= first_step:
        return highest
    if step >= last_step:
        return lowest
    share = (step - first_step) / (last_step - first_step)
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * share))
