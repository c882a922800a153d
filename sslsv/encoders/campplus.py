"""CAM++: densely connected TDNN with context-aware masks. Wang et al., Interspeech 2023, arXiv 2303.00332.

Parameters with 80 bands: 7,176,224 (512-d embeddings), 6,848,544 (192-d). Published EER on VoxCeleb1-O,
supervised: 0.73 % by 3D-Speaker, 0.65 % by wespeaker with large-margin fine-tuning.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, KaldiFeatures
from sslsv.encoders.pooling import mean_and_deviation
from sslsv.encoders.residual import Block, conv_norm_relu
from sslsv.ops.layers import in_format_of
from sslsv.settings import section

_MAP_CHANNELS = 32  # channels of the two-dimensional layers
_GROWTH, _BOTTLENECK = 32, 128  # channels that a dense layer adds, and channels inside it
_DENSE_BLOCKS = ((12, 1), (24, 2), (16, 2))  # number of layers and dilation of each block
_SEGMENT_FRAMES = 100  # 2 s; masks use the means of a segment and of the utterance
_NAMES = """
    ^projection= ^head.conv1=maps.0.0 ^head.bn1=maps.0.1 ^head.conv2=maps.5.0 ^head.bn2=maps.5.1
    ^head.layer1.0=maps.1 ^head.layer1.1=maps.2 ^head.layer2.0=maps.3 ^head.layer2.1=maps.4
    conv1=layers.0 bn1=layers.1 conv2=layers.3 bn2=layers.4
    ^xvector.tdnn.linear=layer0.0.0 ^xvector.tdnn.nonlinear.batchnorm=layer0.0.1
    ^xvector.block*.tdnnd*=layer*.* ^xvector.transit*.nonlinear.batchnorm=layer*.99.0
    ^xvector.transit*.linear=layer*.99.2 ^xvector.out_nonlinear.batchnorm=layer9.0.0 ^layer*.*=blocks.#
    nonlinear1.batchnorm=bottleneck.0 nonlinear2.batchnorm=bottleneck.3 cam_layer.linear_local=local
    cam_layer.linear1=mask.0 cam_layer.linear2=mask.2 linear1=bottleneck.2
    ^xvector.dense.linear=head.0 ^xvector.dense.nonlinear.batchnorm=head.1
"""


class DenseLayer(nn.Module):
    """Append 32 channels, computed by a masked convolution over time, to the input channels."""

    def __init__(self, inputs: int, dilation: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.ReLU(),
            nn.Conv1d(inputs, _BOTTLENECK, 1, bias=False),
            nn.BatchNorm1d(_BOTTLENECK),
            nn.ReLU(inplace=True),
        )
        self.local = nn.Conv1d(_BOTTLENECK, _GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.mask = nn.Sequential(
            nn.Conv1d(_BOTTLENECK, _BOTTLENECK // 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv1d(_BOTTLENECK // 2, _GROWTH, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bottleneck(x)
        segments = F.avg_pool1d(y, _SEGMENT_FRAMES, _SEGMENT_FRAMES, ceil_mode=True)
        # A mask is constant within a segment, so it is computed once per segment.
        masks = self.mask(y.mean(2, keepdim=True) + segments)
        masks = masks.repeat_interleave(_SEGMENT_FRAMES, 2)[:, :, : y.shape[2]]
        return torch.cat([x, self.local(y) * masks], 1)


class CAMPlusPlus(SpectrogramEncoder):
    """Embed with 2-D residual layers, dense blocks over time, statistics pooling and a linear layer."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults are 3D-Speaker's."""

        name: Literal["campplus"] = "campplus"
        features: KaldiFeatures = KaldiFeatures(full_scale=1.0, window="povey")
        embedding_dim: EmbeddingDim = 512

    peer_names: ClassVar = {"3dspeaker": _NAMES, "wespeaker": _NAMES}
    min_samples = 720  # two frames after one halving; a single frame has no deviation

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.maps = nn.Sequential(
            conv_norm_relu(1, _MAP_CHANNELS),
            *(Block(_MAP_CHANNELS, _MAP_CHANNELS, (stride, 1)) for stride in (2, 1, 2, 1)),
            conv_norm_relu(_MAP_CHANNELS, _MAP_CHANNELS, stride=(2, 1)),
        )
        num_bins, channels = math.ceil(config.features.num_mels / 8), 128
        parts: list[nn.Module] = [
            nn.Sequential(
                nn.Conv1d(_MAP_CHANNELS * num_bins, channels, 5, 2, 2, bias=False),
                nn.BatchNorm1d(channels),
                nn.ReLU(inplace=True),
            )
        ]
        for num_layers, dilation in _DENSE_BLOCKS:
            for _ in range(num_layers):
                parts.append(DenseLayer(channels, dilation))
                channels += _GROWTH
            halving = nn.Conv1d(channels, channels // 2, 1, bias=False)
            parts.append(nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU(), halving))
            channels //= 2
        parts.append(nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU()))
        self.blocks = nn.Sequential(*parts)
        self.frame_dim = channels
        self.head = nn.Sequential(
            nn.Conv1d(2 * channels, config.embedding_dim, 1, bias=False),
            nn.BatchNorm1d(config.embedding_dim, affine=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        num_mels = weights["blocks.0.0.weight"].shape[1] // _MAP_CHANNELS * 8
        return [{"features": {"num_mels": num_mels}, "embedding_dim": len(weights["head.0.weight"])}]

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, 512, L) of waveforms (B, T), one every 20 ms."""
        x = in_format_of(self.maps, self.features(waveforms)[:, None])
        return self.apply_blocks(self.blocks, self.apply_blocks(self.maps, x).flatten(1, 2))

    def pool(self, frames: Tensor) -> Tensor:
        return self.head(mean_and_deviation(frames, 1e-14)[:, :, None])[:, :, 0]  # type: ignore[no-any-return]
