"""Margins from face recognition for contrastive losses: positives must beat negatives by a margin.

Source: Lepage and Dehak, arXiv 2306.03664 and 2404.14913. A margin changes the cosine of an anchor and its
positive before the softmax. Only CurricularFace also changes negatives. For all other margins, a value of 0
(a factor of 1 for SphereFace) leaves the loss of the logits and its gradient unchanged, bit for bit. (SimCLR
without a margin does not compute these logits but calls `nt_xent`; the two agree within rounding.)
"""

import math

import torch
from torch import Tensor, nn

from sslsv.models.base import Progress
from sslsv.models.fields import MarginConfig, MarginSchedule
from sslsv.ops import distributed

# Initial running averages. CurricularFace: mean cosine of positives. AdaFace: mean and deviation of norms.
_INITIAL_AVERAGES = {"curricularface": (0.0,), "adaface": (20.0, 100.0)}
_AVERAGE_RATE = 0.01  # weight of the current step in the running averages


def rising_share(schedule: MarginSchedule, epochs: float) -> float:
    """Return the share of the full margin, from 0 to 1, after a possibly fractional number of epochs.

    The exponential rise is that of wespeaker and 3D-Speaker; it reaches 90 % in the first third.
    """
    if schedule.name == "constant":
        return 1.0
    start, end = schedule.rise_epochs
    fraction = min(max((epochs - start) / (end - start), 0.0), 1.0)
    if schedule.name == "cosine":
        return (1.0 - math.cos(math.pi * fraction)) / 2.0
    if schedule.name == "exponential" and fraction < 1:
        return 1.0 - math.exp(fraction * math.log(1e-3 / (1 + 1e-6)))
    return fraction


def add_angle(cosines: Tensor, margin: Tensor | float) -> Tensor:
    """Return cos(theta + margin), ArcFace (arXiv 1801.07698); the margin is in radians, scalar or per row.

    Where theta + margin would exceed pi, it is cos(theta) - margin * sin(margin), which keeps decreasing.
    """
    margin = torch.as_tensor(margin, dtype=cosines.dtype)
    added = cosines * margin.cos() - _sines(cosines) * margin.sin()
    beyond = cosines - margin * margin.sin()
    return torch.where(cosines > -margin.cos(), added, beyond)


def subtract_angle(cosines: Tensor, margin: Tensor | float) -> Tensor:
    """Return cos(theta - margin), which makes a negative harder; the margin is in radians."""
    margin = torch.as_tensor(margin, dtype=cosines.dtype)
    return cosines * margin.cos() + _sines(cosines) * margin.sin()


def multiply_angle(cosines: Tensor, factor: Tensor | float) -> Tensor:
    """Return cos(factor * theta), continued to keep decreasing beyond pi: SphereFace (arXiv 1704.08063).

    Only the value changes; the gradient is that of the cosine itself.
    """
    with torch.no_grad():
        angles = cosines.clamp(-1, 1).acos()
        half_turns = (factor * angles / math.pi).floor()
        multiplied = (1 - 2 * half_turns.remainder(2)) * (factor * angles).cos() - 2 * half_turns
        # Subtracting the cosine of the rounded angle cancels its rounding: a factor of 1 changes no bit.
        change = multiplied - angles.cos()
    return cosines + change


def add_by_quality(cosines: Tensor, margin: Tensor | float, quality: Tensor) -> Tensor:
    """Return cos(theta - margin * q) - margin * (1 + q), AdaFace (arXiv 2204.00964), `quality` q in [-1, 1].

    The angle is clamped to [0, pi], as in the authors' code.
    """
    turn, clamped = margin * quality, _clamped(cosines)
    turned = cosines * turn.cos() + _sines(cosines) * turn.sin()
    turned = torch.where((turn > 0) & (clamped > turn.cos()), 1.0, turned)
    turned = torch.where((turn < 0) & (clamped < -turn.cos()), -1.0, turned)
    return turned - margin * (1 + quality)


def _clamped(cosines: Tensor) -> Tensor:
    # The derivatives of sine and angle are infinite at a cosine of 1, as for identical views.
    return cosines.clamp(-1 + 1e-7, 1 - 1e-7)


def _sines(cosines: Tensor) -> Tensor:
    return (1 - _clamped(cosines).square()).sqrt()


class Margin(nn.Module):
    """Apply a margin to logits; in each step, the method calls `observe` first and `after_step` last.

    If `has_all_rows` is False, the anchors are only this worker's share of the global batch.
    """

    share: Tensor
    averages: Tensor
    norm_range: Tensor

    def __init__(self, config: MarginConfig, temperature: float, *, has_all_rows: bool = True) -> None:
        super().__init__()
        self.config, self.temperature, self.has_all_rows = config, temperature, has_all_rows
        self.is_active = config.name != "none"
        if self.is_active:
            self.register_buffer("share", torch.tensor(rising_share(config.schedule, 0.0)))
        if config.name in _INITIAL_AVERAGES:
            self.register_buffer("averages", torch.tensor(_INITIAL_AVERAGES[config.name]))
        if config.name == "magface":
            norm_range = torch.tensor(config.norm_range or (math.nan, math.nan))
            self.register_buffer("norm_range", norm_range, persistent=False)
        self._new_averages: Tensor | None = None

    @torch.no_grad()
    def observe(self, positive_logits: Tensor, anchors: Tensor) -> None:
        """Update statistics with the logits of all positives, without margin, and anchors (N, P).

        Anchors are not normalised. In training, the loss of a step already uses the averages of that step, as
        in the papers' code; `after_step` stores them. In evaluation, running averages do not change.
        """
        self._new_averages = None
        if self.config.name == "magface" and self.config.norm_range is None:
            norms = self._of_all_workers(anchors.norm(dim=1))
            self.norm_range = norms.quantile(norms.new_tensor([0.05, 0.95]))
        if self.config.name not in _INITIAL_AVERAGES or not self.training:
            return
        if self.config.name == "curricularface":
            current = self.temperature * self._of_all_workers(positive_logits).mean()[None]
        else:
            norms = self._of_all_workers(anchors.norm(dim=1))
            current = torch.stack([norms.mean(), norms.std()])
        self._new_averages = self.averages.lerp(current.to(self.averages.dtype), _AVERAGE_RATE)

    def forward(self, logits: Tensor, positives: Tensor, anchors: Tensor) -> Tensor:
        """Return logits (N, K) with the margin.

        `positives` (N, R) are the columns of each row's positives, `anchors` (N, P) the rows' projections,
        which are not normalised, because MagFace and AdaFace use their norms.
        """
        if not self.is_active:
            return logits
        cosines = logits.gather(1, positives) * self.temperature
        changes = self._with_margin(cosines, anchors) - cosines
        changed = logits.scatter_add(1, positives, changes / self.temperature)
        if self.config.name != "curricularface":
            return changed
        return changed + self._hard_negative_changes(logits, positives, cosines) / self.temperature

    def penalty(self, anchors: Tensor) -> Tensor:
        """Return `norm_weight` times MagFace's mean of 1 / norm + norm / highest^2; 0 for other margins."""
        if self.config.name != "magface" or self.config.norm_weight == 0:
            return anchors.new_zeros(())
        low, high = self.norm_range.unbind()
        norms = anchors.norm(dim=1).clamp(low, high)
        term: Tensor = (1 / norms + norms / high.square()).mean()
        return self.config.norm_weight * term

    def metrics(self) -> dict[str, Tensor]:
        """Return the margin of this step, if there is one."""
        return {"margin": self._value.clone()} if self.is_active else {}

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Store this step's averages, and set the margin to its value in the next step."""
        if self.is_active:
            epochs = progress.total_epochs * (progress.step + 1) / max(progress.total_steps, 1)
            self.share.fill_(rising_share(self.config.schedule, epochs))
        if self._new_averages is not None:
            self.averages.copy_(self._new_averages)
            self._new_averages = None

    def _with_margin(self, cosines: Tensor, anchors: Tensor) -> Tensor:
        """Return the positives' cosines (N, R) with the margin."""
        config, margin = self.config, self._value
        if config.name == "am":  # CosFace, arXiv 1801.09414
            return cosines - margin
        if config.name == "sphereface":
            return multiply_angle(cosines, margin)
        if config.name == "adaface":
            mean, deviation = self._averages.unbind()
            # The authors clip norms at 100, which would make all norms of some encoders equal.
            scores = (anchors.norm(dim=1) - mean) / (deviation + 1e-3) * config.concentration
            return add_by_quality(cosines, margin, scores.clamp(-1, 1).detach()[:, None])
        if config.name == "magface":  # arXiv 2103.06627: the longer the anchor, the larger its margin
            low, high = self.norm_range.unbind()
            norms = anchors.norm(dim=1, keepdim=True)
            position = (norms.clamp(low, high) - low) / (high - low).clamp(min=0.01 * high)
            margin = self.share * (config.lowest_value + (config.value - config.lowest_value) * position)
        return add_angle(cosines, margin)

    def _hard_negative_changes(self, logits: Tensor, positives: Tensor, cosines: Tensor) -> Tensor:
        """Return the changes that CurricularFace (arXiv 2004.00288) makes to cosines of negatives, (N, K).

        Negatives above cos(theta + margin) of the anchor's positive (of its farthest positive, if there are
        several) become cosine * (t + cosine), where t is the running mean of the positives' cosines. As t
        starts at 0, even a margin of 0 differs from NT-Xent.
        """
        margin = self._value
        limits = (cosines * margin.cos() - _sines(cosines) * margin.sin()).amin(1, keepdim=True).detach()
        negatives = logits * self.temperature
        is_easy = (negatives <= limits).scatter(1, positives, True)
        # Mask before the product, because the logit of an anchor with itself is -inf.
        hard = negatives.masked_fill(is_easy, 0.0)
        return hard * (self._averages + hard) - hard

    @property
    def _value(self) -> Tensor:
        neutral = 1.0 if self.config.name == "sphereface" else 0.0
        return neutral + (self.config.value - neutral) * self.share

    @property
    def _averages(self) -> Tensor:
        return self.averages if self._new_averages is None else self._new_averages

    def _of_all_workers(self, values: Tensor) -> Tensor:
        return values if self.has_all_rows else distributed.gather(values)
