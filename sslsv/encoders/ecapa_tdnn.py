"""ECAPA-TDNN: Res2Net blocks over time, channel gates, attentive statistics. Desplanques et al., 2005.07143.

Several networks share one name, such as "ECAPA-1024". With 80 mel bands, this file builds (parameters):

    form         channels  aggregation_channels  embedding_dim
    speechbrain  512       1536                  192             6,194,048
    speechbrain  512       1536                  512             7,177,408
    speechbrain  1024      3072                  192            20,767,552   SpeechBrain, 3D-Speaker
    speechbrain  1024      3072                  512            22,733,952   the published DINO and SDPN
    speechbrain  1024      1536                  512            15,643,776
    wespeaker    512       1536                  192             6,190,720   5,797,504 without global context
    wespeaker    1024      1536                  192            14,657,088   14,263,872 without

The networks of theolepage/sslsv and of 3D-Speaker are SpeechBrain's, weight for weight. wespeaker's differs:
convolutions pad with zeros, not by reflection; the last part of a Res2Net block is passed on, not the first;
and neither the layer before the pooling nor the attention has a batch norm.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, WideFeatures
from sslsv.encoders.pooling import ContextAttention
from sslsv.settings import refuse_if, section

_SCALE = 8  # parts of a Res2Net block
_GATE_DIM = 128
_SPEECHBRAIN_NAMES = """
    ^features_extractor= ^instance_norm= ^projection= conv.conv=conv norm.norm=norm ^blocks.0=stem.0
    ^blocks.*=blocks.#.layers tdnn1=0 res2net_block=1 tdnn2=2 se_block.conv1.conv=3.squeeze
    se_block.conv2.conv=3.excite ^mfa=aggregation ^asp_bn.norm=pooling_norm ^asp_bn=pooling_norm
    ^asp.conv=pooling.score ^asp.tdnn.conv=pooling.hidden ^asp.tdnn.norm=pooling.norm ^fc.conv=head
"""
_WESPEAKER_NAMES = """
    ^projection= ^layer1=stem.0 ^layer*.se_res2block=blocks.#.layers convs.*=blocks.*.conv bns.*=blocks.*.norm
    ^bn2=head_norm ^bn=pooling_norm bn=norm 3.linear1=3.squeeze 3.linear2=3.excite ^conv=aggregation.conv
    ^pool.linear1=pooling.hidden ^pool.linear2=pooling.score ^linear=head
"""

Padding = Literal["zeros", "reflect"]


class TDNNBlock(nn.Module):
    """Convolve over time, then ReLU and batch norm: (B, C, L) -> (B, outputs, L)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, padding_mode: Padding = "reflect"
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(inputs, outputs, kernel, 1, padding, dilation, padding_mode=padding_mode)
        self.norm: nn.Module = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x), inplace=True))  # type: ignore[no-any-return]


class Res2Block(nn.Module):
    """Split the channels into 8 parts and convolve all but one, each after adding the previous output.

    The part that is not convolved is the first, or the last in wespeaker's form.
    """

    def __init__(self, channels: int, dilation: int, form: str) -> None:
        super().__init__()
        width = channels // _SCALE
        self.passes_first = form == "speechbrain"
        padding: Padding = "reflect" if self.passes_first else "zeros"
        self.blocks = nn.ModuleList(
            [TDNNBlock(width, width, 3, dilation, padding) for _ in range(_SCALE - 1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(torch.chunk(x, _SCALE, dim=1))
        first = 1 if self.passes_first else 0
        for i, block in enumerate(self.blocks, first):
            parts[i] = block(parts[i] if i == first else parts[i] + parts[i - 1])
        return torch.cat(parts, 1)


class ChannelGates(nn.Module):
    """Multiply each channel by a gate in (0, 1), computed from all channels' means over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, _GATE_DIM, 1)
        self.excite = nn.Conv1d(_GATE_DIM, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(2, keepdim=True)))))
        return x * gates


class SERes2Block(nn.Module):
    """Add a shortcut to a 1 x 1 convolution, a Res2Net block, a 1 x 1 convolution and channel gates."""

    def __init__(self, channels: int, dilation: int, form: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            TDNNBlock(channels, channels),
            Res2Block(channels, dilation, form),
            TDNNBlock(channels, channels),
            ChannelGates(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class ECAPATDNN(SpectrogramEncoder):
    """Embed 16 kHz waveforms (B, T) as (B, embedding_dim); frames are (B, aggregation_channels, L)."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults have 22,733,952 parameters, 512-d embeddings."""

        name: Literal["ecapa_tdnn"] = "ecapa_tdnn"
        features: WideFeatures = WideFeatures()
        channels: Annotated[int, Field(ge=8, multiple_of=8, description="channels of the blocks")] = 1024
        aggregation_channels: Annotated[int, Field(ge=1, description="channels of the frames")] = 3072
        embedding_dim: EmbeddingDim = 512
        form: Annotated[
            Literal["speechbrain", "wespeaker"],
            Field(description="SpeechBrain's (same as 3D-Speaker's and theolepage/sslsv's) or wespeaker's"),
        ] = "speechbrain"
        has_global_context: Annotated[bool, Field(description="wespeaker: attention sees statistics")] = True
        embedding_batchnorm: Annotated[bool, Field(description="wespeaker: batch norm at the end")] = False

        def __post_init__(self) -> None:
            refuse_if(
                self.form != "wespeaker" and (self.embedding_batchnorm or not self.has_global_context),
                "has_global_context and embedding_batchnorm are variants of wespeaker's form; set form to "
                "wespeaker, or leave them out",
            )

    peer_names: ClassVar = {
        "speechbrain": _SPEECHBRAIN_NAMES,
        "upstream": _SPEECHBRAIN_NAMES,
        "3dspeaker": _SPEECHBRAIN_NAMES,
        "wespeaker": _WESPEAKER_NAMES,
    }
    pooling_modules = ("pooling", "pooling_norm", "head", "head_norm")
    min_samples = 1040  # five Kaldi frames, because the widest layer reflects four

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        channels, wide = config.channels, config.aggregation_channels
        self.frame_dim = wide
        is_wespeaker = config.form == "wespeaker"
        padding: Padding = "zeros" if is_wespeaker else "reflect"
        self.stem = nn.Sequential(TDNNBlock(config.features.num_mels, channels, 5, padding_mode=padding))
        self.blocks = nn.ModuleList([SERes2Block(channels, dilation, config.form) for dilation in (2, 3, 4)])
        self.aggregation = TDNNBlock(3 * channels, wide)
        if is_wespeaker:
            self.aggregation.norm = nn.Identity()
        self.pooling = ContextAttention(wide, config.has_global_context, is_speechbrain=not is_wespeaker)
        self.pooling_norm = nn.BatchNorm1d(2 * wide)
        self.head = nn.Conv1d(2 * wide, config.embedding_dim, 1)
        dim = config.embedding_dim
        self.head_norm = nn.BatchNorm1d(dim) if config.embedding_batchnorm else nn.Identity()

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        channels, num_mels, _ = weights["stem.0.conv.weight"].shape
        wide = len(weights["aggregation.conv.weight"])
        attention = weights["pooling.hidden.weight"]
        settings = {
            "features": {"num_mels": num_mels},
            "channels": channels,
            "aggregation_channels": wide,
            "embedding_dim": len(weights["head.weight"]),
            "form": "speechbrain" if "pooling.norm.weight" in weights else "wespeaker",
            "has_global_context": attention.shape[1] > wide,
            "embedding_batchnorm": "head_norm.weight" in weights,
        }
        return [settings]

    def frames(self, waveforms: Tensor) -> Tensor:
        x = self.stem(self.features(waveforms))
        outputs = []
        for block in self.blocks:
            x = self.apply_blocks([block], x)
            outputs.append(x)
        return self.aggregation(torch.cat(outputs, 1))  # type: ignore[no-any-return]

    def pool(self, frames: Tensor) -> Tensor:
        statistics = self.pooling_norm(self.pooling(frames))
        return self.head_norm(self.head(statistics[:, :, None])[:, :, 0])  # type: ignore[no-any-return]
