"""Small encoder that keeps the mean spectrum: statistics of cepstra over an utterance, two linear layers.

By default, the other spectrogram encoders normalise each band to mean 0, to remove the channel. That also
removes the mean spectrum of the voice, which this encoder keeps. Views with different rooms and noises teach
it to ignore the channel. Fused with another encoder, it made fewer errors on test lists than either alone.

193,792 parameters with the default settings.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import torchaudio.functional
from pydantic import Field
from torch import Tensor, nn

from sslsv.encoders.base import SpectrogramEncoder
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig, Features
from sslsv.settings import refuse_if, section


class CepstralStatistics(SpectrogramEncoder):
    """Embed with means and deviations of cepstra over the louder 70 % of frames, and one hidden layer.

    Cepstra are the cosine transform of log-mel energies (Davis and Mermelstein, 1980); see also `slopes`.
    """

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder."""

        name: Literal["cepstral_statistics"] = "cepstral_statistics"
        features: Features = Features(num_mels=64, low_hz=50.0, high_hz=7600.0, normalization="none")
        num_cepstra: Annotated[int, Field(ge=2, description="cepstra per frame, up to num_mels")] = 40
        hidden_dim: Annotated[int, Field(ge=1, description="width of the hidden layer")] = 512
        embedding_dim: EmbeddingDim = 256

        def __post_init__(self) -> None:
            refuse_if(
                self.num_cepstra > self.features.num_mels,
                f"num_cepstra is {self.num_cepstra}, but {self.features.num_mels} mel bands give at "
                f"most {self.features.num_mels} cepstra; lower it, or raise features.num_mels",
            )

    dct: Tensor

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.frame_dim = 2 * config.num_cepstra + 1
        dct = torchaudio.functional.create_dct(config.num_cepstra, config.features.num_mels, "ortho")
        self.register_buffer("dct", dct, persistent=False)
        num_statistics = 3 * config.num_cepstra - 1
        self.head = nn.Sequential(
            nn.BatchNorm1d(num_statistics, affine=False),
            nn.Linear(num_statistics, config.hidden_dim),
            nn.BatchNorm1d(config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.embedding_dim),
        )

    @torch.no_grad()
    def frames(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, 2 * num_cepstra + 1, L) of waveforms (B, T), every 10 ms, always in float32.

        Channels are the cepstra, their slopes, and a mask that is 1 for the louder 70 % of an utterance's
        frames, else 0. No gradient passes, because nothing here has weights.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            log_mel = self.features(waveforms)  # (B, num_mels, L)
            cepstra = (log_mel.mT @ self.dct).mT
            level = log_mel.mean(1, keepdim=True)
            threshold = level.sort(2).values[:, :, 3 * (level.shape[2] - 1) // 10, None]
            return torch.cat([cepstra, slopes(cepstra), (level >= threshold).to(cepstra.dtype)], 1)

    def pool(self, frames: Tensor) -> Tensor:
        """Return embeddings (B, embedding_dim) of frames (B, 2 * num_cepstra + 1, L), outside autocast.

        The head gets the means of all cepstra except the first (the level), the standard deviations of all
        cepstra, and the root mean squares of the slopes.
        """
        with torch.autocast(frames.device.type, enabled=False):
            weights = frames[:, -1:] / frames[:, -1:].sum(2, keepdim=True)
            cepstra, slopes = frames[:, :-1].chunk(2, 1)
            means = (weights * cepstra).sum(2, keepdim=True)
            variances = (weights * (cepstra - means).square()).sum(2)
            squares = (weights * slopes.square()).sum(2)
            statistics = torch.cat([means[:, 1:, 0], variances.sqrt(), squares.sqrt()], 1)
            return self.head(statistics)  # type: ignore[no-any-return]


def slopes(series: Tensor) -> Tensor:
    """Return least-squares slopes over 5 frames, (B, C, L) -> (B, C, L), as torchaudio's compute_deltas.

    torchaudio's convolution has one group per row of a batch, so it can't be exported for any batch size.
    """
    padded = F.pad(series, (2, 2), mode="replicate")
    return (2 * (padded[..., 4:] - padded[..., :-4]) + padded[..., 3:-1] - padded[..., 1:-3]) / 10
