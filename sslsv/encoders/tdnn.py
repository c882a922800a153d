"""TDNN, the x-vector network: convolutions over time, then statistics. Snyder et al., ICASSP 2018.

Parameters with 512-d embeddings:

    num_mels  has_second_layer  parameters
    40        True               4,516,244
    80        True               4,618,644
    40        False              4,252,564   SpeechBrain's
    80        False              4,354,964

With a second layer, it has the sizes of the network of theolepage/sslsv, which has no padding (14 frames
fewer) and has a ReLU instead of the LeakyReLU in its head.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, WideFeatures
from sslsv.settings import section

_SPEECHBRAIN_NAMES = "^blocks.*.conv=blocks.#.0 ^blocks.*.norm=blocks.#.2 ^blocks.*.w=head.0"
# Width, kernel and dilation of each layer.
_LAYERS = ((512, 5, 1), (512, 3, 2), (512, 3, 3), (512, 1, 1), (1500, 1, 1))


class TDNN(SpectrogramEncoder):
    """Embed with five convolutions over time, mean and deviation, and one or two linear layers."""

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the defaults have 4,618,644 parameters."""

        name: Literal["tdnn"] = "tdnn"
        features: WideFeatures = WideFeatures()
        embedding_dim: EmbeddingDim = 512
        has_second_layer: Annotated[bool, Field(description="two linear layers after the pooling")] = True

    peer_names: ClassVar = {"speechbrain": _SPEECHBRAIN_NAMES}
    deviation_eps = 1e-14
    min_samples = 880  # four Kaldi frames, because the widest layer reflects three

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.frame_dim = _LAYERS[-1][0]
        inputs = config.features.num_mels
        blocks = []
        for width, kernel, dilation in _LAYERS:
            padding = dilation * (kernel - 1) // 2
            convolution = nn.Conv1d(inputs, width, kernel, 1, padding, dilation, padding_mode="reflect")
            blocks.append(nn.Sequential(convolution, nn.LeakyReLU(inplace=True), nn.BatchNorm1d(width)))
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        dim = config.embedding_dim
        layers: list[nn.Module] = [nn.Linear(2 * inputs, dim)]
        if config.has_second_layer:
            layers += [nn.LeakyReLU(inplace=True), nn.BatchNorm1d(dim), nn.Linear(dim, dim)]
        self.head = nn.Sequential(*layers)

    @classmethod
    def possible_settings(cls, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        features = {"num_mels": weights["blocks.0.0.weight"].shape[1]}
        dim = len(weights["head.0.weight"])
        return [{"features": features, "embedding_dim": dim, "has_second_layer": False}]

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, 1500, L) of waveforms (B, T), one every 10 ms."""
        return self.apply_blocks(self.blocks, self.features(waveforms))
