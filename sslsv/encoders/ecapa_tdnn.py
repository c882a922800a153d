"""ECAPA-TDNN: Res2Net blocks over time, channel gates, attentive statistics. Desplanques et al., 2005.07143.

Several networks go by one name, such as "ECAPA-1024"; with 80 mel bands this file builds (parameters):

    channels  aggregation_channels  embedding_dim
    512       1536                  192               6,194,048   SpeechBrain's form
    512       1536                  512               7,177,408
    1024      3072                  192              20,767,552   3D-Speaker's form
    1024      3072                  512              22,733,952   encoder of the published DINO, SSPS, SDPN
    1024      1536                  512              15,643,776

wespeaker's form (other padding, other order of layers) is a different network and not built here.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import Encoder
from sslsv.encoders.features import Spectrogram
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, WideFeatures
from sslsv.ops.layers import full_precision, recomputed
from sslsv.settings import section

_SCALE = 8  # parts of a Res2Net block
_GATE_DIM = _ATTENTION_DIM = 128


class TDNNBlock(nn.Module):
    """Convolve over time, then ReLU and batch norm: (B, C, L) -> (B, outputs, L), reflected at the ends."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(
            inputs, outputs, kernel, dilation=dilation, padding=padding, padding_mode="reflect"
        )
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, L)."""
        return self.norm(F.relu(self.conv(x), inplace=True))  # type: ignore[no-any-return]


class Res2Block(nn.Module):
    """Cut the channels into 8 parts; each but the first is convolved, with the part before it added."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        width = channels // _SCALE
        self.blocks = nn.ModuleList([TDNNBlock(width, width, 3, dilation) for _ in range(_SCALE - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, L)."""
        first, *rest = torch.chunk(x, _SCALE, dim=1)
        parts = [first]
        for i, (block, part) in enumerate(zip(self.blocks, rest, strict=True)):
            parts.append(block(part if i == 0 else part + parts[-1]))
        return torch.cat(parts, 1)


class ChannelGates(nn.Module):
    """Multiply each channel by a gate in (0, 1) made of all channels' means over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, _GATE_DIM, 1)
        self.excite = nn.Conv1d(_GATE_DIM, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, L)."""
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(2, keepdim=True)))))
        return x * gates


class SERes2Block(nn.Module):
    """Pass a Res2Net block between two 1 x 1 convolutions, then channel gates, around a shortcut."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            TDNNBlock(channels, channels),
            Res2Block(channels, dilation),
            TDNNBlock(channels, channels),
            ChannelGates(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, L)."""
        return x + self.layers(x)  # type: ignore[no-any-return]


class AttentiveStatistics(nn.Module):
    """Average frames with weights for each channel: (B, C, L) -> means and standard deviations (B, 2C).

    The attention also sees each channel's mean and deviation over the utterance. It runs in float32 or
    float64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tdnn = TDNNBlock(3 * channels, _ATTENTION_DIM)
        self.score = nn.Conv1d(_ATTENTION_DIM, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2C)."""
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            uniform = torch.full_like(x[:, :1], 1 / x.shape[2])
            context = torch.cat([part[:, :, None].expand_as(x) for part in _mean_and_std(x, uniform)], 1)
            weights = torch.softmax(self.score(torch.tanh(self.tdnn(torch.cat([x, context], 1)))), 2)
            return torch.cat(_mean_and_std(x, weights), 1)


def _mean_and_std(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (x * weights).sum(2)
    variance = ((x - mean[:, :, None]).square() * weights).sum(2)
    return mean, variance.clamp(min=1e-12).sqrt()


class ECAPATDNN(Encoder):
    """Embed waveforms (B, T) of 16 kHz: (B, embedding_dim); frames are (B, aggregation_channels, L)."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults have 22,733,952 parameters, 512-d embeddings."""

        name: Literal["ecapa_tdnn"] = "ecapa_tdnn"
        features: WideFeatures = WideFeatures()
        channels: Annotated[int, Field(ge=8, multiple_of=8, description="channels of the blocks")] = 1024
        aggregation_channels: Annotated[
            int, Field(ge=1, description="channels of the frames, made of all three blocks' outputs")
        ] = 3072
        embedding_dim: EmbeddingDim = 512

    pooling_modules = ("pooling", "pooling_norm", "head")
    min_samples = 800  # the widest layer reflects four frames

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        channels, wide = config.channels, config.aggregation_channels
        self.embedding_dim, self.frame_dim = config.embedding_dim, wide
        self.features = Spectrogram(config.features)
        self.stem = nn.Sequential(TDNNBlock(config.features.num_mels, channels, 5))
        self.blocks = nn.ModuleList([SERes2Block(channels, dilation) for dilation in (2, 3, 4)])
        self.aggregation = TDNNBlock(3 * channels, wide)
        self.pooling = AttentiveStatistics(wide)
        self.pooling_norm = nn.BatchNorm1d(2 * wide)
        self.head = nn.Conv1d(2 * wide, config.embedding_dim, 1)

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return (B, aggregation_channels, L) of waveforms (B, T)."""
        is_recomputed = self.recomputes_activations and torch.is_grad_enabled()
        x = self.stem(self.features(waveforms))
        outputs = []
        for block in self.blocks:
            x = recomputed(block, x) if is_recomputed else block(x)
            outputs.append(x)
        return self.aggregation(torch.cat(outputs, 1))  # type: ignore[no-any-return]

    def pool(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of frames (B, aggregation_channels, L)."""
        statistics = self.pooling_norm(self.pooling(frames))
        return self.head(statistics[:, :, None])[:, :, 0]  # type: ignore[no-any-return]
