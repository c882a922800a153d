"""What a model asks of an encoder: frames of waveforms, and their pooling to one embedding."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Base of the encoders: waveforms (B, T) of 16 kHz, int16 or floats in [-1, 1) -> embeddings (B, D).

    Subclasses take their `Config` and give `features`, `frames` and `pool`. Embeddings are not normalised.
    """

    embedding_dim: int  # D
    frame_dim: int  # C, the channels of `frames`
    features: nn.Module  # waveforms (B, T) -> (B, num_bins, L); an export may replace this module
    pooling_modules: tuple[str, ...]  # the submodules that only `pool` uses
    min_samples = 400  # of a waveform; shorter recordings are repeated before they are embedded
    recomputes_activations = False  # the trainer sets it: the backward pass runs the blocks again

    @abstractmethod
    def frames(self, waveforms: Tensor) -> Tensor:
        """Return the frame-level representation (B, frame_dim, L) of waveforms (B, T)."""

    @abstractmethod
    def pool(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of frames (B, frame_dim, L)."""

    def freeze_pooling(self) -> None:
        """Take what only `pool` uses out of training, for methods that use frames alone."""
        for name in self.pooling_modules:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of waveforms (B, T)."""
        return self.pool(self.frames(waveforms))
