"""Pool a map of frames (B, C, F, L) over frequency and time to one vector per utterance (B, output_dim).

All poolings run in float32 or float64 even under autocast, because variances and the softmax over many frames
need the precision.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslsv.ops.layers import full_precision


class MeanPooling(nn.Module):
    """Average an utterance's map over frequency and time: C values; base class of all poolings."""

    def __init__(self, channels: int, num_bins: int, output_dim: int | None = None) -> None:
        super().__init__()
        self.output_dim = output_dim or channels

    def forward(self, frames: Tensor) -> Tensor:
        """Pool (B, C, F, L) of any precision to (B, output_dim), float32 or float64, outside autocast."""
        with torch.autocast(frames.device.type, enabled=False):
            return self.pool(frames)

    def pool(self, frames: Tensor) -> Tensor:
        """Return (B, output_dim) of (B, C, F, L); subclasses override this."""
        return full_precision(frames).mean((2, 3))


class StatisticsPooling(MeanPooling):
    """Take mean and biased standard deviation over time per channel and frequency: 2 * C * F values.

    Source: Snyder et al., Interspeech 2017 (x-vector). Variances are at least 1e-5, so that gradients exist.
    """

    def __init__(self, channels: int, num_bins: int) -> None:
        super().__init__(channels, num_bins, 2 * channels * num_bins)

    def pool(self, frames: Tensor) -> Tensor:
        variance, mean = torch.var_mean(full_precision(frames).flatten(1, 2), 2, correction=0)
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1)


class SelfAttentivePooling(MeanPooling):
    """Average over frequency, then over time with weights from a learned score per frame: C values.

    score_t = v . tanh(W x_t + b), softmax over time. Source: Cai et al., Odyssey 2018 (arXiv 1804.05160).
    """

    def __init__(self, channels: int, num_bins: int) -> None:
        super().__init__(channels, num_bins)
        self.hidden = nn.Linear(channels, channels)
        self.score = nn.Parameter(torch.empty(channels, 1))
        nn.init.xavier_normal_(self.score)

    def pool(self, frames: Tensor) -> Tensor:
        """Return (B, C) of (B, C, F, L), without copying the map to another precision."""
        # Dividing after the sum divides the gradient before it is expanded to the map.
        total = frames.sum(2, dtype=torch.promote_types(frames.dtype, torch.float32))
        frames = (total / frames.shape[2]).mT  # (B, L, C)
        weights = torch.softmax(torch.tanh(self.hidden(frames)) @ self.score, 1)  # (B, L, 1)
        return (frames * weights).sum(1)


class ChannelAttentivePooling(MeanPooling):
    """Average over time with weights per channel and frequency; also take the deviation if `has_std`.

    C * F values, or 2 * C * F. Source: Okabe et al., Interspeech 2018 (arXiv 1803.10963), but per channel.
    """

    def __init__(self, channels: int, num_bins: int, has_std: bool, attention_dim: int = 128) -> None:
        width = channels * num_bins
        super().__init__(channels, num_bins, 2 * width if has_std else width)
        self.has_std = has_std
        self.attention = nn.Sequential(
            nn.Conv1d(width, attention_dim, 1),
            nn.ReLU(),
            nn.BatchNorm1d(attention_dim),
            nn.Conv1d(attention_dim, width, 1),
            nn.Softmax(2),
        )

    def pool(self, frames: Tensor) -> Tensor:
        frames = full_precision(frames).flatten(1, 2)
        weights = self.attention(frames)
        mean: Tensor = (frames * weights).sum(2)
        if not self.has_std:
            return mean
        # Subtract the mean first, because E[x^2] - mean^2 loses the digits of small variances.
        variance = ((frames - mean[:, :, None]).square() * weights).sum(2)
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1)


def mean_and_deviation(frames: Tensor, eps: float) -> Tensor:
    """Return mean and unbiased deviation, sqrt(variance + eps), over time: (B, C, L) -> (B, 2C).

    This is the pooling of wespeaker and 3D-Speaker.
    """
    with torch.autocast(frames.device.type, enabled=False):
        variance, mean = torch.var_mean(full_precision(frames), 2)
        return torch.cat([mean, (variance + eps).sqrt()], 1)


class ContextAttention(nn.Module):
    """Average frames with weights per channel: (B, C, L) -> weighted means and deviations (B, 2C).

    Weights depend on a frame and, with `has_context`, on the utterance's mean and deviation. Computed in full
    precision. This is the pooling of ECAPA-TDNN and ReDimNet. SpeechBrain's form has ReLU and batch norm in
    the attention, and biased deviations.
    """

    def __init__(self, channels: int, has_context: bool = True, *, is_speechbrain: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(3 * channels if has_context else channels, 128, 1)
        self.norm = nn.BatchNorm1d(128) if is_speechbrain else None
        self.score = nn.Conv1d(128, channels, 1)
        self.correction, self.eps = (0, 1e-12) if is_speechbrain else (1, 1e-7)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            variance, mean = torch.var_mean(x, 2, correction=self.correction, keepdim=True)
            context = torch.cat([mean, (variance + self.eps).sqrt()], 1)
            hidden = with_context(self.hidden, x, context if self.hidden.in_channels > x.shape[1] else None)
            if self.norm is not None:
                hidden = self.norm(F.relu(hidden, inplace=True))
            weights = self.score(torch.tanh(hidden)).softmax(2)
            mean = (weights * x).sum(2)
            variance = (weights * (x - mean[:, :, None]).square()).sum(2)
            return torch.cat([mean, variance.clamp(min=self.eps).sqrt()], 1)


def with_context(layer: nn.Conv1d, x: Tensor, context: Tensor | None) -> Tensor:
    """Return the 1 x 1 convolution of frames (B, C, L), each concatenated with the same context (B, D, 1).

    The context is multiplied once instead of at every frame, and the concatenation is never built.
    """
    if context is None:
        return layer(x)  # type: ignore[no-any-return]
    frame_weight, context_weight = torch.split(layer.weight, [x.shape[1], context.shape[1]], 1)
    return F.conv1d(x, frame_weight) + F.conv1d(context, context_weight, layer.bias)


POOLINGS: dict[str, Callable[[int, int], MeanPooling]] = {
    "mean": MeanPooling,
    "stats": StatisticsPooling,
    "sap": SelfAttentivePooling,
    "asp": partial(ChannelAttentivePooling, has_std=True),
    "attentive_mean": partial(ChannelAttentivePooling, has_std=False),
}
