"""Five convolutions over the waveform, the encoder of CPC. van den Oord et al., 2018, arXiv 1807.03748.

5,253,120 parameters with 512 channels.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import Encoder
from sslsv.encoders.features import Waveform
from sslsv.encoders.fields import EncoderConfig
from sslsv.ops.layers import full_precision
from sslsv.settings import section

_KERNELS, _STRIDES = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2)


class SimpleAudioCNN(Encoder):
    """Convolve waveforms (batch norm, ReLU) to one frame every 10 ms; embeddings are means of frames."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder."""

        name: Literal["simple_audio_cnn"] = "simple_audio_cnn"
        channels: Annotated[int, Field(ge=1, description="channels of all layers = embedding size")] = 512

    pooling_modules = ()
    min_samples = 465  # receptive field of one frame

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.embedding_dim = self.frame_dim = config.channels
        self.features = Waveform(self.min_samples)
        inputs, blocks = 1, []
        for kernel, stride in zip(_KERNELS, _STRIDES, strict=True):
            convolution = nn.Conv1d(inputs, config.channels, kernel, stride, bias=False)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm1d(config.channels), nn.ReLU(inplace=True)))
            inputs = config.channels
        self.blocks = nn.Sequential(*blocks)

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, channels, L) of waveforms (B, T), L = 1 + (T - 465) // 160."""
        return self.apply_blocks(self.blocks, self.features(waveforms))

    def pool(self, frames: Tensor) -> Tensor:
        return full_precision(frames).mean(2)
