"""ReDimNet: 2-D and 1-D blocks on one tensor, reshaped in between. Yakovlev et al., arXiv 2407.18223.

This is wespeaker's form; the authors' form has a batch norm after pooling. Parameters, and wespeaker's EER on
VoxCeleb1-O in percent, supervised, after large-margin fine-tuning:

    size  num_mels  parameters  EER
    b0    60         1,001,850  1.16
    b1    72         2,123,480  0.85
    b2    72         4,888,240  0.57
    b3    72         3,220,412  0.50
    b4    72         6,432,304  0.51
    b5    72         7,650,544  0.43
    b6    72        15,006,256  0.40

wespeaker counts one parameter more: the constant weight of the first stage's only input.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, KaldiFeatures
from sslsv.encoders.pooling import ContextAttention
from sslsv.settings import refuse_if, section

_KERNELS = (7, 19, 31, 59)  # kernels of the convolutions over time in a stage
_NUM_HEADS = 4
_WESPEAKER_NAMES = """
    ^projection= ^backbone.inputs_weights.0= ^backbone.inputs_weights.*=input_weights.# ^backbone.stem=stem
    ^backbone.stage*=stages.* norm=layers.1 final_layer_norm=norm layer_norm=attention_norm
    feed_forward.intermediate_dense=layers.0 feed_forward.output_dense=layers.2 attention.k_proj=keys
    attention.v_proj=values attention.q_proj=queries attention.out_proj=attended conv_block.se.squeeze=gates.0
    conv_block.se.exitation=gates.2 conv_block.dwconvs=dwconvs conv_block.pwconv1=pwconv1
    conv_block.layers=layers conv_block.conv1=layers.0 conv_block.conv1pw=layers.1 conv_block.bn1=layers.3
    conv_block.conv2=layers.4 conv_block.conv2pw=layers.5 conv_block.bn2=layers.6 dwconvs.0=layers.0
    pwconv1=layers.3 red_dim_conv=layers.0 tcm=layers.1 exp_dim_conv=layers.2 ^pool.linear1=pooling.hidden
    ^pool.linear2=pooling.score ^seg_1=head
"""


class Size(NamedTuple):
    """Describe one of the published sizes.

    A stage is (stride over bands, which multiplies the channels; number of blocks; factor of the channels
    inside the stage; divisor of the channels in its layers over time, 0 for a stage without such layers).
    """

    channels: int
    block: Literal["residual", "gated", "convnext"]
    group_channels: int  # channels of a group in the 3 x 3 convolutions
    stages: tuple[tuple[int, int, int, int], ...]


_B4 = ((1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16))
SIZES = {
    "b0": Size(10, "residual", 1,
        ((1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10))),
    "b1": Size(12, "convnext", 8, ((1, 2, 1, 0), (2, 3, 1, 0), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8))),
    "b2": Size(16, "convnext", 4,
        ((1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (2, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4))),
    "b3": Size(16, "gated", 1,
        ((1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16))),
    "b4": Size(32, "gated", 1, _B4),
    "b5": Size(32, "gated", 16, _B4),
    "b6": Size(32, "residual", 32,
        ((1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16))),
}  # fmt: skip


class ChannelNorm(nn.LayerNorm):
    """Normalise over the channels of (B, C, ...), at every position separately."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class ConvNext(nn.Module):
    """Add a shortcut to a grouped convolution, batch norm, GELU and a 1 x 1 convolution."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, mix: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution, norm, nn.GELU(), mix)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Add a shortcut to two grouped convolutions, each followed by a 1 x 1 one; bands may have gates."""

    def __init__(self, channels: int, num_bins: int, group_channels: int, is_gated: bool) -> None:
        super().__init__()
        groups = channels // group_channels

        def convolutions() -> list[nn.Module]:
            grouped = nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=groups)
            return [grouped, nn.Conv2d(channels, channels, 1)]

        self.layers = nn.Sequential(
            *convolutions(), nn.ReLU(), nn.BatchNorm2d(channels), *convolutions(), nn.BatchNorm2d(channels)
        )
        self.gates: nn.Module | None = None
        if is_gated:
            hidden = min(64, max(channels, 32))
            self.gates = nn.Sequential(
                nn.Linear(num_bins, hidden), nn.ReLU(), nn.Linear(hidden, num_bins), nn.Sigmoid()
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.gates is not None:
            y = y * self.gates(y.mean((1, 3)))[:, None, :, None]
        return F.relu(y + x)


class SelfAttention(nn.Module):
    """Attend over time with four heads, then apply two linear layers; a layer norm follows each part."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.keys, self.values, self.queries = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attended = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT
        queries, keys, values = (
            torch.unflatten(layer(x), 2, (_NUM_HEADS, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        y = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attended(y))
        return self.norm(x + self.layers(x)).mT  # type: ignore[no-any-return]


class TimeLayers(nn.Module):
    """Add a shortcut to convolutions over 70 to 590 ms and attention over time, on fewer channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        convolutions = [
            ConvNext(
                nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden),
                nn.BatchNorm1d(hidden),
                nn.Conv1d(hidden, hidden, 1),
            )
            for kernel in _KERNELS
        ]
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv1d(channels, hidden, 1), ChannelNorm(hidden, eps=1e-6)),
            nn.Sequential(*convolutions, SelfAttention(hidden)),
            nn.Conv1d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class Flattened(nn.Module):
    """Reshape maps (B, C, F, L) to sequences (B, F * C, L); the channels of a band are adjacent."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.transpose(1, 2).flatten(1, 2)


class ReDimNet(SpectrogramEncoder):
    """Embed with stages of 2-D blocks and layers over time; each gets a weighted sum of earlier outputs."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the default size has 4,888,240 parameters."""

        name: Literal["redimnet"] = "redimnet"
        features: KaldiFeatures = KaldiFeatures(num_mels=72)
        size: Annotated[
            Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6"],
            Field(description="one of the published sizes; b0 was published with 60 mel bands"),
        ] = "b2"
        embedding_dim: EmbeddingDim = 192

        def __post_init__(self) -> None:
            # All strides of SIZES must divide num_mels, with channels left for four heads. SIZES is not used
            # here, because settings are read without the values of this module (a test compares them).
            divisor = {"b0": 12, "b3": 8, "b6": 12}.get(self.size, 24)
            refuse_if(
                self.features.num_mels % divisor > 0,
                f"features.num_mels is {self.features.num_mels}, which the stages of ReDimNet {self.size} "
                f"cannot divide; give a multiple of {divisor}, such as 72",
            )

    peer_names: ClassVar = {"wespeaker": _WESPEAKER_NAMES}
    pooling_modules = ("pooling", "head")
    min_samples = 560  # two frames; a single frame has no deviation

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        size, num_mels = SIZES[config.size], config.features.num_mels
        self.frame_dim = dim = size.channels * num_mels
        # Weights of the outputs of the stem and of all stages so far, per channel; softmax makes them shares.
        self.input_weights = nn.ParameterList(
            torch.zeros(1 + i, dim, 1) for i in range(1, len(size.stages) + 1)
        )
        self.stem = nn.Sequential(
            nn.Conv2d(1, size.channels, 3, padding=1), ChannelNorm(size.channels, eps=1e-6), Flattened()
        )
        channels, num_bins, stages = size.channels, num_mels, []
        self.map_channels = []  # channels of each stage's input map
        for stage in size.stages:
            self.map_channels.append(channels)
            stages.append(self._stage(stage, size, channels, num_bins))
            channels, num_bins = channels * stage[0], num_bins // stage[0]
        self.stages = nn.ModuleList(stages)
        self.pooling = ContextAttention(dim)
        self.head = nn.Linear(2 * dim, config.embedding_dim)

    def _stage(
        self, stage: tuple[int, int, int, int], size: Size, channels: int, num_bins: int
    ) -> nn.Sequential:
        stride, num_blocks, expansion, reduction = stage
        outputs, bins = channels * stride, num_bins // stride
        inner = outputs * expansion
        layers: list[nn.Module] = [nn.Conv2d(channels, inner, (stride, 1), (stride, 1))]
        for _ in range(num_blocks):
            if size.block == "convnext":
                convolution = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // size.group_channels)
                layers.append(ConvNext(convolution, nn.BatchNorm2d(inner), nn.Conv2d(inner, inner, 1)))
            else:
                layers.append(Residual(inner, bins, size.group_channels, size.block == "gated"))
        if expansion != 1:
            narrowing = nn.Conv2d(inner, outputs, 3, padding=1, groups=outputs // size.group_channels)
            norm = nn.BatchNorm2d(outputs, eps=1e-6)
            layers.append(nn.Sequential(narrowing, norm, nn.GELU(), nn.Conv2d(outputs, outputs, 1)))
        layers.append(Flattened())
        if reduction:
            layers.append(TimeLayers(self.frame_dim, self.frame_dim // reduction))
        return nn.Sequential(*layers)

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        channels, (embedding_dim, statistics) = len(weights["stem.0.weight"]), weights["head.weight"].shape
        num_mels = statistics // 2 // channels
        # Sizes with the same stem are all candidates; `peers` then compares all tensors.
        return [
            {"features": {"num_mels": num_mels}, "size": name, "embedding_dim": embedding_dim}
            for name, size in SIZES.items()
            if size.channels == channels
        ]

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, F * C, L) of waveforms (B, T), one every 10 ms."""
        x: Tensor = self.stem(self.features(waveforms)[:, None])
        outputs = [x]
        for stage, channels, weights in zip(self.stages, self.map_channels, self.input_weights, strict=True):
            maps = torch.unflatten(x, 1, (-1, channels)).transpose(1, 2)
            outputs.append(self.apply_blocks([stage], maps))
            shares = weights.softmax(0)
            x = shares[0] * outputs[0]
            for share, output in zip(shares[1:], outputs[1:], strict=True):
                x = torch.addcmul(x, share, output)
        return x

    def pool(self, frames: Tensor) -> Tensor:
        return self.head(self.pooling(frames))  # type: ignore[no-any-return]
