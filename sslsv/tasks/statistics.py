"""Embed recordings without any training, by statistics of their cepstra: a weak start for clusters."""

import torch
import torchaudio.functional
from torch import Tensor, nn

from sslsv.config import Config
from sslsv.encoders.features import Spectrogram
from sslsv.encoders.fields import Features
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.models.base import Model, Progress, StepOutput

NUM_CEPSTRA = 20


class CepstralStatistics(Model):
    """Embed by means and deviations over time of the cepstra of log-mel energies, and of their changes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Spectrogram(Features(normalization="none"))
        cosines = torchaudio.functional.create_dct(NUM_CEPSTRA, self.encoder.settings.num_mels, "ortho")
        self.cosines = nn.Parameter(cosines, requires_grad=False)

    @property
    def embedding_dim(self) -> int:
        """Return the number of statistics."""
        return 3 * NUM_CEPSTRA

    @property
    def min_samples(self) -> int:
        """Return the length of a waveform with enough frames for changes."""
        return 16 * 160

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Raise: there is nothing to train."""
        raise NotImplementedError("Statistics are not trained.")

    def embed(self, waveforms: Tensor) -> Tensor:
        """Return statistics (B, 60) of waveforms (B, T)."""
        cepstra = self.encoder(waveforms).mT @ self.cosines  # (B, L, 20)
        changes = cepstra[:, 4:] - cepstra[:, :-4]
        return torch.cat([cepstra.mean(1), cepstra.std(1), changes.std(1)], 1)


def statistics_encoder(config: Config) -> SpeakerEncoder:
    """Return an encoder of statistics, which embeds as a trained one does."""
    return SpeakerEncoder(CepstralStatistics(), config, (), (), "fp32")
