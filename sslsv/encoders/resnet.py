"""ResNets over mel bands and time with statistics pooling, as in wespeaker. He et al., arXiv 1512.03385.

With 80 bands and 256-d embeddings (EER on VoxCeleb1-O in percent, supervised, published by wespeaker):

    depth  block       parameters   EER
    18     basic        4,105,440
    34     basic        6,634,336   0.867
    50     bottleneck  11,131,360
    101    bottleneck  15,892,448
    221    bottleneck  23,792,224   0.569
    293    bottleneck  28,626,016   0.595
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, KaldiFeatures
from sslsv.encoders.residual import Block, conv_norm_relu, plan
from sslsv.ops.layers import in_format_of
from sslsv.settings import section

_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    221: (6, 16, 48, 3),
    293: (10, 20, 64, 3),
}
_WESPEAKER_NAMES = """
    ^projection= ^conv1=stem.0 ^bn1=stem.1 ^layer*.*=blocks.# conv1=layers.0 bn1=layers.1 conv2=layers.3
    bn2=layers.4 conv3=layers.6 bn3=layers.7 ^seg_1=head
"""


class ResNet(SpectrogramEncoder):
    """Embed with a ResNet of 32 to 256 channels (4 times as many with bottlenecks) and statistics pooling."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults are wespeaker's ResNet34."""

        name: Literal["resnet"] = "resnet"
        features: KaldiFeatures = KaldiFeatures()
        depth: Annotated[Literal[18, 34, 50, 101, 221, 293], Field(description="bottlenecks from 50 on")] = 34
        width: Annotated[int, Field(ge=1, description="channels of stage 1; then times 2, 4, 8")] = 32
        embedding_dim: EmbeddingDim = 256

    peer_names: ClassVar = {"wespeaker": _WESPEAKER_NAMES}
    min_samples = 1680  # two frames after three halvings; a single frame has no deviation

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.stem = conv_norm_relu(1, config.width)
        channels, is_bottleneck, blocks = config.width, config.depth >= 50, []
        for width, stride in plan(_BLOCKS_PER_STAGE[config.depth], config.width):
            blocks.append(Block(channels, width, stride, is_bottleneck))
            channels = 4 * width if is_bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.frame_dim = channels * math.ceil(config.features.num_mels / 8)
        self.head = nn.Linear(2 * self.frame_dim, config.embedding_dim)

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        width, (dim, statistics) = len(weights["stem.0.weight"]), weights["head.weight"].shape
        num_blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        is_bottleneck = "blocks.0.layers.6.weight" in weights
        num_mels = statistics // (8 * width * (4 if is_bottleneck else 1) * 2) * 8
        features = {"num_mels": num_mels}
        return [
            {"features": features, "depth": depth, "width": width, "embedding_dim": dim}
            for depth, blocks in _BLOCKS_PER_STAGE.items()
            if sum(blocks) == num_blocks and is_bottleneck == (depth >= 50)
        ]

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, C * F, L) of waveforms (B, T), C channels at F frequencies, every 80 ms."""
        x = in_format_of(self.blocks, self.features(waveforms)[:, None])
        return self.apply_blocks((self.stem, *self.blocks), x).flatten(1, 2)
