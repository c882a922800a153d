"""Define the interface of an encoder: waveforms to frame-level features, pooled to one embedding."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sslsv.encoders.features import Spectrogram
from sslsv.encoders.peers import Names
from sslsv.encoders.pooling import mean_and_deviation
from sslsv.ops.layers import recomputed


class Encoder(nn.Module, ABC):
    """Embed 16 kHz waveforms (B, T), int16 or floats in [-1, 1), as (B, D); base class of all encoders.

    Subclasses take their `Config` and set `features`, `frames` and `pool`. Embeddings are not normalised.
    """

    embedding_dim: int  # D
    frame_dim: int  # C, the channels of `frames`
    features: nn.Module  # waveforms (B, T) -> (B, num_bins, L); an export may replace this module
    pooling_modules: tuple[str, ...]  # the submodules that only `pool` uses
    config: Any  # the encoder's `Config`, which derives from `EncoderConfig`
    # Training settings; all other settings define the architecture and must match `init`.
    training_settings: tuple[str, ...] = ("init", "frozen", "rate_scale")
    peer_names: ClassVar[dict[str, Names]] = {}  # keys: projects whose weights can be imported
    min_samples = 400  # minimum length; shorter recordings are repeated before they are embedded
    is_frozen = False
    recomputes_activations = False  # True (`train.recompute`): the backward pass runs the blocks again

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def frames(self, waveforms: Tensor) -> Tensor:
        """Return the frame-level representation (B, frame_dim, L) of waveforms (B, T)."""

    @abstractmethod
    def pool(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of frames (B, frame_dim, L)."""

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Return candidate settings, inferred from the shapes of weights; raises KeyError if none fit."""
        raise KeyError

    def apply_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """Apply blocks to x, one after the other, recomputing activations if `recomputes_activations`."""
        is_recomputed = self.recomputes_activations and torch.is_grad_enabled()
        for block in blocks:
            x = recomputed(block, x) if is_recomputed else block(x)
        return x

    def rate_scale(self, parameter: str) -> float:
        """Return the factor of the learning rate for a parameter, by its name in the encoder."""
        return float(self.config.rate_scale)

    def freeze(self) -> None:
        """Fix weights and running statistics and disable dropout, even after `train(True)`."""
        self.is_frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.is_frozen)

    def merge(self) -> None:
        """Merge LoRA weights into the base weights; without LoRA, do nothing."""

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of waveforms (B, T)."""
        return self.pool(self.frames(waveforms))


class SpectrogramEncoder(Encoder):
    """Start with a spectrogram (settings `features`) and end with `head`; base class of most encoders."""

    head: nn.Module
    pooling_modules: tuple[str, ...] = ("head",)
    deviation_eps = 1e-7  # added to variances over time before the square root

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embedding_dim = config.embedding_dim
        self.features = Spectrogram(config.features)

    def pool(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim): `head` of the means and deviations of frames over time."""
        return self.head(mean_and_deviation(frames, self.deviation_eps))  # type: ignore[no-any-return]
