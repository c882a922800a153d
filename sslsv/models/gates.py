"""Detect wrong labels by the loss: an utterance that a network finds hard to learn is likely mislabelled.

Sources: fixed threshold (LGL), Tao et al., arXiv 2110.03869; threshold between two Gaussians, and the label
correction in `supervised` (DLG-LC), Han et al., arXiv 2208.01928, as implemented in wavlm_ssl_sv.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sslsv.models.base import Progress
from sslsv.models.fields import GateConfig
from sslsv.ops import distributed

UNSEEN, KEPT, CORRECTED, LEFT_OUT = range(4)  # outcome when the utterance was last in a batch
# Lower bound of losses, because the logarithm of 0 is infinite. Losses are differences from log-sum-exps, and
# near 30, neighbouring float32 numbers are 2e-6 apart.
LOWEST_LOSS = 1e-6


class Mixture(NamedTuple):
    """Hold two Gaussians, the one of lower mean first: weights, means, deviations, float64 (2,) each."""

    weights: Tensor
    means: Tensor
    deviations: Tensor


def fit_mixture(values: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Mixture:
    """Fit two Gaussians to values (N,), N >= 2, by expectation maximisation.

    The start is the best split into two intervals (exact k-means). Above 2**20 values, only every n-th sorted
    value is used. The result does not depend on the order of the values, bit for bit.
    """
    values = values.double().cpu().sort().values
    values = values[:: -(-len(values) // 2**20)]
    counts = torch.arange(1, len(values), dtype=torch.float64)
    sums = values.cumsum(0)
    lower, upper = sums[:-1], sums[-1] - sums[:-1]  # the sum of each interval, for every split
    gains = lower.square() / counts + upper.square() / counts.flip(0)
    is_upper = (torch.arange(len(values)) > gains.argmax()).double()
    shares = torch.stack([1 - is_upper, is_upper])  # (2, N), share of each Gaussian in each value
    floor = values.var(correction=0) * 1e-6 + 1e-12
    likelihood = -math.inf
    for _ in range(iterations):
        totals = shares.sum(1).clamp_min(1e-9)
        means = shares @ values / totals
        variances = (shares * (values - means[:, None]).square()).sum(1) / totals + floor
        mixture = Mixture(totals / len(values), means, variances.sqrt())
        logs = log_densities(mixture, values)
        evidence = logs.logsumexp(0)
        shares = (logs - evidence).exp()
        previous, likelihood = likelihood, float(evidence.mean())
        if likelihood - previous < tolerance:
            break
    order = mixture.means.argsort()
    return Mixture(*(part[order] for part in mixture))


def log_densities(mixture: Mixture, values: Tensor) -> Tensor:
    """Return the logarithm of each Gaussian's weighted density at values (N,), as (2, N)."""
    weights, means, deviations = (part[:, None] for part in mixture)
    scores = (values - means) / deviations
    return weights.log() - deviations.log() - 0.5 * (scores.square() + math.log(2 * math.pi))


def crossing(mixture: Mixture) -> float | None:
    """Return the value between the means where the weighted densities are equal; None unless exactly one."""
    low, high = map(float, mixture.means)
    at_low, at_high = log_densities(mixture, mixture.means).diff(dim=0)[0].tolist()  # upper minus lower
    if not at_low < 0 < at_high:
        return None
    # The difference of the log densities is quadratic and changes sign between the means: one root.
    for _ in range(100):
        middle = (low + high) / 2
        point = torch.tensor([middle], dtype=torch.float64)
        is_beyond = float(log_densities(mixture, point).diff(dim=0)) > 0
        low, high = (low, middle) if is_beyond else (middle, high)
    return (low + high) / 2


class Gate(nn.Module):
    """Keep utterances whose loss does not exceed a threshold; store each utterance's last loss and outcome.

    The buffers are indexed by utterance and equal on all workers, so the result does not depend on restarts
    or on the number of workers.
    """

    losses: Tensor
    outcomes: Tensor
    threshold: Tensor

    def __init__(self, config: GateConfig, num_utterances: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("losses", torch.full((num_utterances,), -1.0))  # below 0: not seen yet
        self.register_buffer("outcomes", torch.full((num_utterances,), UNSEEN, dtype=torch.int8))
        self.register_buffer("threshold", torch.tensor(config.threshold if config.name == "fixed" else 0.0))

    def start_epoch(self, progress: Progress) -> None:
        """Set the threshold to the crossing of two Gaussians fitted to the log losses, if they cross.

        Otherwise the old threshold stays. At least the share `min_kept` is kept. The first worker computes
        the threshold for all workers. Fixed thresholds do not change.
        """
        if self.config.name != "mixture" or progress.epoch < self.config.start_epoch:
            return
        log_threshold = None
        seen = self.losses[self.losses >= 0]
        if distributed.is_main() and len(seen) > 1:
            log_losses = seen.double().clamp_min(LOWEST_LOSS).log()
            log_threshold = crossing(fit_mixture(log_losses))
            if log_threshold is not None:
                log_threshold = max(log_threshold, float(log_losses.quantile(self.config.min_kept)))
        log_threshold = distributed.broadcast_object(log_threshold)
        if log_threshold is not None:
            self.threshold.fill_(math.exp(log_threshold))

    def judge(self, losses: Tensor, progress: Progress) -> Tensor:
        """Return KEPT or LEFT_OUT per loss (B,); before `start_epoch` or without threshold, keep all."""
        is_open = self.threshold <= 0 if progress.epoch >= self.config.start_epoch else True
        return torch.where((losses <= self.threshold) | is_open, KEPT, LEFT_OUT)

    def remember(self, utterances: Tensor, losses: Tensor, outcomes: Tensor) -> Tensor:
        """Store this step's losses and outcomes (B,) if training; return all workers' outcomes, (W*B,)."""
        # One collective for all three columns; float64 represents every utterance number exactly.
        rows = distributed.gather(torch.stack([t.double() for t in (utterances, losses, outcomes)], 1))
        indices = rows[:, 0].long()
        if self.training:
            self.losses[indices] = rows[:, 1].to(self.losses.dtype)
            self.outcomes[indices] = rows[:, 2].to(self.outcomes.dtype)
        return rows[:, 2].long()
