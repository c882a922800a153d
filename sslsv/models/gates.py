"""Judge labels by losses: an utterance that a network finds hard to learn most likely has a wrong label.

Sources: a gate of fixed thresholds (LGL), Tao et al., arXiv 2110.03869; a threshold between two Gaussians,
and the correction of labels in `supervised` (DLG-LC), Han et al., arXiv 2208.01928, as in wavlm_ssl_sv.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sslsv.models.base import Progress
from sslsv.models.fields import GateConfig
from sslsv.ops import distributed

UNSEEN, KEPT, CORRECTED, LEFT_OUT = range(4)  # what became of an utterance the last time
# The logarithm of a loss of 0 is infinite. In float32, log-sum-exps near 30 are told apart by 2e-6.
LOWEST_LOSS = 1e-6


class Mixture(NamedTuple):
    """Hold two Gaussians, that of the lower mean first: weights, means and deviations, float64 (2,) each."""

    weights: Tensor
    means: Tensor
    deviations: Tensor


def fit_mixture(values: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Mixture:
    """Fit two Gaussians to values (N,), two or more, by expectation maximisation.

    It begins with the best division into two intervals (exact k-means). The order of the
    values changes no bit.
    """
    values = values.double().cpu().sort().values
    values = values[:: -(-len(values) // 2**20)]
    counts = torch.arange(1, len(values), dtype=torch.float64)
    sums = values.cumsum(0)
    gains = sums[:-1].square() / counts + (sums[-1] - sums[:-1]).square() / counts.flip(0)
    is_upper = (torch.arange(len(values)) > gains.argmax()).double()
    shares = torch.stack([1 - is_upper, is_upper])  # (2, N): of each value, that of either Gaussian
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
        before, likelihood = likelihood, float(evidence.mean())
        if likelihood - before < tolerance:
            break
    order = mixture.means.argsort()
    return Mixture(*(part[order] for part in mixture))


def log_densities(mixture: Mixture, values: Tensor) -> Tensor:
    """Return the logarithm of the weighted densities of both Gaussians at values (N,): (2, N)."""
    weights, means, deviations = (part[:, None] for part in mixture)
    scores = (values - means) / deviations
    return weights.log() - deviations.log() - 0.5 * (scores.square() + math.log(2 * math.pi))


def crossing(mixture: Mixture) -> float | None:
    """Return where the two weighted densities are equal between the means; None unless that is one place."""
    low, high = map(float, mixture.means)
    at_low, at_high = log_densities(mixture, mixture.means).diff(dim=0)[0].tolist()  # upper minus lower
    if not at_low < 0 < at_high:
        return None
    # The difference of the logarithms is quadratic; from one sign to the other, it has one root in between.
    for _ in range(100):
        middle = (low + high) / 2
        place = torch.tensor([middle], dtype=torch.float64)
        is_beyond = float(log_densities(mixture, place).diff(dim=0)) > 0
        low, high = (low, middle) if is_beyond else (middle, high)
    return (low + high) / 2


class Gate(nn.Module):
    """Keep utterances whose loss does not exceed a threshold; remember each one's last loss and outcome.

    These buffers are indexed by utterance and equal on all workers, so neither restarts nor the number of
    workers change the result.
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
        """Set the threshold of this epoch where the two Gaussians of the log losses cross, if they do.

        Otherwise the old one stays. At least `min_kept` are kept. The first worker computes it for all.
        """
        if self.config.name != "mixture" or progress.epoch < self.config.start_epoch:
            return
        found = None
        seen = self.losses[self.losses >= 0]
        if distributed.is_main() and len(seen) > 1:
            losses = seen.double().clamp_min(LOWEST_LOSS).log()
            found = crossing(fit_mixture(losses))
            if found is not None:
                found = max(found, float(losses.quantile(self.config.min_kept)))
        found = distributed.broadcast_object(found)
        if found is not None:
            self.threshold.fill_(math.exp(found))

    def judge(self, losses: Tensor, progress: Progress) -> Tensor:
        """Return KEPT or LEFT_OUT for each row's loss (B,); all are kept while there is no threshold."""
        is_open = self.threshold <= 0 if progress.epoch >= self.config.start_epoch else True
        return torch.where((losses <= self.threshold) | is_open, KEPT, LEFT_OUT)

    def remember(self, utterances: Tensor, losses: Tensor, outcomes: Tensor) -> Tensor:
        """Keep losses and outcomes of this step's rows (B,), in training; return all outcomes, (W*B,)."""
        # One collective for the three: float64 holds the number of any utterance.
        rows = distributed.gather(torch.stack([t.double() for t in (utterances, losses, outcomes)], 1))
        places = rows[:, 0].long()
        if self.training:
            self.losses[places] = rows[:, 1].to(self.losses.dtype)
            self.outcomes[places] = rows[:, 2].to(self.outcomes.dtype)
        return rows[:, 2].long()
