"""ERes2NetV2: Res2Net blocks over bands and time, fused by attention. Chen et al., arXiv 2406.02167.

Parameters with 80 bands and 192-d embeddings:

    base_width  scale  expansion  parameters
    26          2      2          17,859,632   3D-Speaker's default: EER 0.68 % on VoxCeleb1-O, supervised
    24          4      4          53,513,632
"""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, KaldiFeatures
from sslsv.encoders.residual import conv_norm_relu, plan, shortcut
from sslsv.ops.layers import in_format_of
from sslsv.settings import section

_BLOCKS_PER_STAGE = (3, 4, 6, 3)
_FUSION_REDUCTION = 4
_3D_SPEAKER_NAMES = """
    ^conv1=stem.0 ^bn1=stem.1 ^layer*=stages.# conv1=conv_in bn1=norm_in bns=norms fuse_models=fusions
    local_att=attention conv3=conv_out bn3=norm_out ^layer3_ds=third_stage_halved ^fuse34=fusion ^seg_1=head
"""


def _clipped_relu(x: Tensor) -> Tensor:
    return F.hardtanh(x, 0.0, 20.0, inplace=True)


class Fusion(nn.Module):
    """Fuse two maps: x (1 + a) + y (1 - a), with attention a in (-1, 1) computed from both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // _FUSION_REDUCTION
        self.attention = nn.Sequential(
            nn.Conv2d(2 * channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.BatchNorm2d(channels),
            nn.Tanh(),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        # x + y + a (x - y) needs one product instead of two.
        return torch.addcmul(x + y, self.attention(torch.cat([x, y], 1)), x - y)


class Block(nn.Module):
    """Convolve parts of a map in turn, each after adding or fusing the previous output; add a shortcut."""

    def __init__(
        self, inputs: int, planes: int, stride: int, config: "ERes2NetV2.Config", fuses: bool
    ) -> None:
        super().__init__()
        self.width = planes * config.base_width // 64
        inner, outputs = self.width * config.scale, planes * config.expansion
        self.conv_in = nn.Conv2d(inputs, inner, 1, stride, bias=False)
        self.norm_in = nn.BatchNorm2d(inner)
        parts = range(config.scale)
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1, bias=False) for _ in parts)
        self.norms = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in parts)
        self.fusions = nn.ModuleList(Fusion(self.width) for _ in parts[1:]) if fuses else None
        self.conv_out = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm_out = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = _clipped_relu(self.norm_in(self.conv_in(x)))
        outputs: list[Tensor] = []
        for i, part in enumerate(torch.split(y, self.width, 1)):
            if i > 0:
                part = outputs[-1] + part if self.fusions is None else self.fusions[i - 1](outputs[-1], part)
            outputs.append(_clipped_relu(self.norms[i](self.convs[i](part))))
        y = self.norm_out(self.conv_out(torch.cat(outputs, 1)))
        return _clipped_relu(y.add_(self.shortcut(x)))


class ERes2NetV2(SpectrogramEncoder):
    """Embed with four stages of Res2Net blocks, the third fused into the fourth, and statistics pooling."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults are 3D-Speaker's."""

        name: Literal["eres2netv2"] = "eres2netv2"
        features: KaldiFeatures = KaldiFeatures(full_scale=1.0, window="povey")
        width: Annotated[int, Field(ge=8, description="planes of stage 1; then times 2, 4, 8")] = 64
        base_width: Annotated[int, Field(ge=8, description="channels of a part per 64 planes")] = 26
        scale: Annotated[int, Field(ge=1, description="parts of a block")] = 2
        expansion: Annotated[int, Field(ge=1, description="output channels of a block per plane")] = 2
        embedding_dim: EmbeddingDim = 192

    peer_names: ClassVar = {"3dspeaker": _3D_SPEAKER_NAMES}
    deviation_eps = 1e-8
    min_samples = 1680  # two frames after three halvings; a single frame has no deviation

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.stem = conv_norm_relu(1, config.width)
        channels, blocks = config.width, iter(plan(_BLOCKS_PER_STAGE, config.width))
        stages = [nn.Sequential() for _ in _BLOCKS_PER_STAGE]
        for number, stage in enumerate(stages):
            for planes, stride in islice(blocks, _BLOCKS_PER_STAGE[number]):
                stage.append(Block(channels, planes, stride, config, fuses=number >= 2))
                channels = planes * config.expansion
        self.stages = nn.ModuleList(stages)
        self.third_stage_halved = nn.Conv2d(channels // 2, channels, 3, 2, 1, bias=False)
        self.fusion = Fusion(channels)
        self.frame_dim = channels * math.ceil(config.features.num_mels / 8)
        self.head = nn.Linear(2 * self.frame_dim, config.embedding_dim)

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        width, part_width = len(weights["stem.0.weight"]), len(weights["stages.0.0.convs.0.weight"])
        expansion = len(weights["stages.0.0.conv_out.weight"]) // width
        settings = {
            "features": {"num_mels": weights["head.weight"].shape[1] // (2 * 8 * width * expansion) * 8},
            "width": width,
            "scale": len(weights["stages.0.0.conv_in.weight"]) // part_width,
            "expansion": expansion,
            "embedding_dim": len(weights["head.weight"]),
        }
        # Several base widths can give the same first stage, so compare the last stage.
        lowest, last_width = math.ceil(64 * part_width / width), len(weights["stages.3.0.convs.0.weight"])
        fitting = [base for base in range(lowest, lowest + 64) if 8 * width * base // 64 == last_width]
        return [settings | {"base_width": base} for base in fitting[:1]]

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, C * F, L) of waveforms (B, T), C channels at F frequencies, every 80 ms."""
        x = self.stem(in_format_of(self.stages, self.features(waveforms)[:, None]))
        *first, last = self.stages.children()
        third = self.apply_blocks((block for stage in first for block in stage.children()), x)
        fused: Tensor = self.fusion(self.apply_blocks(last.children(), third), self.third_stage_halved(third))
        return fused.flatten(1, 2)
