"""Thin ResNet-34 on log-mel spectrograms; width, stem, strides and pooling are settings.

The default is "Fast ResNet-34" (Chung et al., Interspeech 2020, arXiv 2003.11982), 1.4 M parameters. The
model of theolepage/sslsv has 7,045,196 parameters, an unstrided stem, and five times the cost:

    features: {pre_emphasis: 0.97}
    width: 32
    stem: 3x3
    last_stride: 2
    pooling: attentive_mean
    embedding_dim: 1024
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, Features
from sslsv.encoders.pooling import POOLINGS
from sslsv.encoders.residual import conv_norm_relu, plan, shortcut
from sslsv.ops.layers import in_format_of
from sslsv.settings import section

_BLOCKS_PER_STAGE = (3, 4, 6, 3)
# Rules `theirs=ours` for checkpoints of theolepage/sslsv; `Names` in peers.py explains them.
_UPSTREAM_NAMES = """
    ^features_extractor= ^instance_norm= ^conv=stem.0 ^bn=stem.1 ^block*.*=blocks.# bn*=norm*
    se.fc.0=gates.squeeze se.fc.2=gates.excite downsample=shortcut ^pooling.attention=pooling.score
    ^pooling.sap_linear=pooling.hidden ^fc=head
"""


class SqueezeExcitation(nn.Module):
    """Compute gates in (0, 1) from the channels' means: (B, C, F, L) -> (B, C, 1, 1). arXiv 1709.01507."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return gates[:, :, None, None]


def gated_residual(y: Tensor, added: Tensor, squeeze: nn.Linear, excite: nn.Linear) -> Tensor:
    """Return relu(added + y * sigmoid(excite(relu(squeeze(mean of y over its map))))), (B, C, F, L).

    Separate operations would pass over the maps a dozen times forward and backward, and on a CPU this memory
    traffic dominates the cost. Here the gradients of gates, mean, sum and ReLU share their passes. Both maps
    keep their precision, all else is float32 or float64. Second derivatives are not supported.
    """
    with torch.autocast(y.device.type, enabled=False):
        parameters = (squeeze.weight, squeeze.bias, excite.weight, excite.bias)
        out: Tensor = _GatedResidual.apply(y, added, *parameters)
        return out


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, added: Tensor, *parameters: Tensor) -> Tensor:
        squeeze, squeeze_bias, excite, excite_bias = parameters
        mean = _sum_of_map(y).to(squeeze.dtype) / (y.shape[2] * y.shape[3])
        hidden = torch.addmm(squeeze_bias, mean, squeeze.T).relu_()
        gates = torch.addmm(excite_bias, hidden, excite.T).sigmoid_()
        out = torch.addcmul(added, y, _over_map(gates, y)).relu_()
        ctx.save_for_backward(y, out, mean, hidden, gates, squeeze, excite)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        y, out, mean, hidden, gates, squeeze, excite = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        gates_grad = _sum_of_map(gradient * y).to(gates.dtype)
        logits_grad = gates_grad * gates * (1 - gates)
        hidden_grad = torch.ops.aten.threshold_backward(logits_grad @ excite, hidden, 0)
        mean_grad = (hidden_grad @ squeeze) / (y.shape[2] * y.shape[3])
        y_grad = torch.addcmul(_over_map(mean_grad, y), gradient, _over_map(gates, y))
        weight_grads = (hidden_grad.T @ mean, hidden_grad.sum(0), logits_grad.T @ hidden, logits_grad.sum(0))
        return y_grad, gradient, *weight_grads


def _sum_of_map(x: Tensor) -> Tensor:
    """Return the sums (B, C) of maps (B, C, F, L), at least float32 except for bfloat16 on a CPU."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # On a CPU, this sum is six times faster than over (2, 3).
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return rows.sum(1)  # The CPU adds in float32 anyway; asking for a float32 result is slow.
    return rows.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def _over_map(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None]


class Block(nn.Module):
    """Add a shortcut to conv-ReLU-BN-conv-BN (3 x 3, optional gates), as in VoxCeleb's ResNets; then ReLU."""

    def __init__(self, inputs: int, channels: int, stride: int, has_squeeze_excitation: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.gates = SqueezeExcitation(channels) if has_squeeze_excitation else None
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        # In place where autograd allows it, because on a CPU these memory accesses take a third of a step.
        y = self.norm1(F.relu(self.conv1(x), inplace=True))
        y = self.norm2(self.conv2(y))
        if self.gates is not None:
            if self.training and not torch.compiler.is_compiling():
                return gated_residual(y, self.shortcut(x), self.gates.squeeze, self.gates.excite)
            y = y * self.gates(y)
        return F.relu(y.add_(self.shortcut(x)), inplace=True)


class ThinResNet34(SpectrogramEncoder):
    """Embed with a narrow ResNet-34: 16 channels in stage 1 by default, a quarter of the usual width."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults are Fast ResNet-34 (1,437,078 parameters)."""

        name: Literal["thin_resnet34"] = "thin_resnet34"
        features: Features = Features()
        width: Annotated[int, Field(ge=1, description="channels of stage 1; then times 2, 4, 8")] = 16
        stem: Annotated[
            Literal["7x7", "3x3"],
            Field(description="7x7 halves the bands (conv, BN, ReLU); 3x3 does not (conv, ReLU, BN)"),
        ] = "7x7"
        stem_time_stride: Annotated[Literal[1, 2], Field(description="2 halves the frames and the cost")] = 1
        last_stride: Annotated[Literal[1, 2], Field(description="stride of stage 4, bands and time")] = 1
        has_squeeze_excitation: Annotated[bool, Field(description="channel gates in every block")] = True
        pooling: Annotated[
            Literal["mean", "stats", "sap", "asp", "attentive_mean"], Field(description="pooling over time")
        ] = "sap"
        embedding_dim: EmbeddingDim = 512
        embedding_batchnorm: Annotated[bool, Field(description="batch norm without scale at the end")] = False

    peer_names: ClassVar = {"upstream": _UPSTREAM_NAMES}
    pooling_modules = ("pooling", "head", "head_norm")

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        channels, strides = config.width, (1, 2, 2, config.last_stride)
        if config.stem == "7x7":
            self.stem = conv_norm_relu(1, channels, 7, (2, config.stem_time_stride))
        else:
            convolution = nn.Conv2d(1, channels, 3, (1, config.stem_time_stride), 1)
            self.stem = nn.Sequential(convolution, nn.ReLU(inplace=True), nn.BatchNorm2d(channels))
        self.blocks = nn.Sequential()
        for width, stride in plan(_BLOCKS_PER_STAGE, config.width, strides):
            self.blocks.append(Block(channels, width, stride, config.has_squeeze_excitation))
            channels = width
        band_stride = (2 if config.stem == "7x7" else 1) * math.prod(strides)
        num_bins = math.ceil(config.features.num_mels / band_stride)
        self.map_shape = (channels, num_bins)
        self.frame_dim = channels * num_bins
        self.pooling = POOLINGS[config.pooling](channels, num_bins)
        self.head = nn.Linear(self.pooling.output_dim, config.embedding_dim)
        dim, has_norm = config.embedding_dim, config.embedding_batchnorm
        self.head_norm = nn.BatchNorm1d(dim, affine=False) if has_norm else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        width, (dim, pooled) = len(weights["stem.0.weight"]), weights["head.weight"].shape
        is_attentive = "pooling.score" in weights
        # Attention sees the mean over all bands, so its shapes do not show the number of bands.
        num_mels = 40 if is_attentive else pooled // (16 * width) * 8
        pooling = "sap" if is_attentive else "stats"
        features = {"num_mels": num_mels}
        return [{"features": features, "width": width, "pooling": pooling, "embedding_dim": dim}]

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return embeddings (B, D), without the copy that `frames` makes of channels-last maps."""
        return self._embed(self._map(waveforms))

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, C * F, L) of waveforms (B, T), C channels at F frequencies."""
        return self._map(waveforms).flatten(1, 2)

    def pool(self, frames: Tensor) -> Tensor:
        return self._embed(frames.view(len(frames), *self.map_shape, -1))

    def _map(self, waveforms: Tensor) -> Tensor:
        x = in_format_of(self.blocks, self.features(waveforms)[:, None])
        return self.apply_blocks((self.stem, *self.blocks), x)

    def _embed(self, feature_map: Tensor) -> Tensor:
        return self.head_norm(self.head(self.pooling(feature_map)))  # type: ignore[no-any-return]
