"""Log-mel spectrograms of waveforms, on the waveform's device."""

import math

import torch
import torch.nn.functional as F
import torchaudio.compliance.kaldi
import torchaudio.functional
from torch import Tensor, nn

from sslsv.encoders.fields import Features
from sslsv.ops import SAMPLE_RATE as SAMPLE_RATE

_WINDOW_LENGTH = 400  # samples: 25 ms
HOP_LENGTH = 160  # samples: 10 ms


def to_float(waveform: Tensor) -> Tensor:
    """Return a waveform of any shape in [-1, 1): int16 is divided by 32768, floats stay unchanged."""
    if waveform.dtype == torch.int16:
        return waveform.float().mul_(1 / 32768)
    if not waveform.is_floating_point():
        raise ValueError(
            f"A waveform of {waveform.dtype} has no known full scale; give int16, or floats in [-1, 1)."
        )
    return waveform


class Spectrogram(nn.Module):
    """Turn 16 kHz waveforms (B, T) into log-mel energies (B, num_mels, L), float32 even under autocast.

    Windows of 25 ms every 10 ms, power spectrum of 512 points, triangular mel filters, natural logarithm, and
    bands normalised over the utterance. No gradient passes. `Features.kind` sets the details:

    - "log_mel": L = 1 + T // 160 frames, centred, with reflected edges; filters are triangles over hertz (HTK
      scale); 1e-6 is added to energies. Equal to torchaudio's MelSpectrogram, log and InstanceNorm1d, at less
      than half the cost on a CPU. Pre-emphasis filters the entire waveform.
    - "kaldi": L = 1 + (T - 400) // 160 frames within the waveform, each with its mean removed and
      pre-emphasised by itself; filters are triangles over mel; energies are at least 1.2e-7. Equal to
      Kaldi's fbank without dither.
    - "speechbrain": L = 1 + T // 160 frames, centred, with zeros beyond the edges; spectrum of 400 points;
      energies in decibels, at least 1e-10 and at most 80 dB below the utterance's maximum. Equal to
      SpeechBrain's Fbank.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, features: Features = Features()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.settings = features
        self.is_kaldi = features.kind == "kaldi"
        self.num_fft = 400 if features.kind == "speechbrain" else 512
        make_window = torch.hamming_window if features.window == "hamming" else torch.hann_window
        window = make_window(_WINDOW_LENGTH, periodic=not self.is_kaldi)  # Kaldi's windows are symmetric
        if features.window == "povey":
            window = window.pow(0.85)
        if not self.is_kaldi:
            margin = (self.num_fft - _WINDOW_LENGTH) // 2
            window = F.pad(window, (margin, margin))
        self.min_samples = self.num_fft // 2 + 1 if features.kind == "log_mel" else _WINDOW_LENGTH
        # Each row appears twice, for the squared real and imaginary part of a bin; the product adds them.
        filterbank = _filters(features).repeat_interleave(2, 0)
        # Both are constants, so checkpoints do not store them.
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", filterbank, persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Return normalised log-mel energies; raises ValueError for fewer samples than `min_samples`."""
        _check_length(waveform, self.min_samples)
        with torch.autocast(waveform.device.type, enabled=False):
            # On CPUs, spectra of a few seconds fit into the cache: 2.5 times faster than the batch at once.
            seconds = 8 if waveform.device.type == "cpu" else 1024
            num_rows = max(1, seconds * SAMPLE_RATE // waveform.shape[1])
            energies = torch.cat([self._energies(chunk) for chunk in torch.split(waveform, num_rows)])
            return self.normalized_log(energies).mT.contiguous()

    def _energies(self, waveform: Tensor) -> Tensor:
        # Returns mel energies (B, L, num_mels) before the logarithm.
        waveform = to_float(waveform).to(self.window.dtype)
        if self.settings.full_scale != 1:
            waveform = waveform * self.settings.full_scale
        if self.is_kaldi:
            frames = waveform.unfold(1, _WINDOW_LENGTH, HOP_LENGTH)
            frames = self.emphasized(frames - frames.mean(2, keepdim=True))
        else:
            frames = self.padded(self.emphasized(waveform)).unfold(1, self.num_fft, HOP_LENGTH)
        spectra = torch.fft.rfft(frames * self.window, self.num_fft)
        squares = torch.view_as_real(spectra).flatten(2).square_()  # (B, L, 514), (B, L, 402)
        return squares @ self.filterbank

    def padded(self, waveform: Tensor) -> Tensor:
        """Return waveforms (B, T) padded by half a frame at both ends, with a reflection or zeros."""
        mode = "reflect" if self.settings.kind == "log_mel" else "constant"
        return F.pad(waveform[:, None], (self.num_fft // 2, self.num_fft // 2), mode=mode)[:, 0]

    def emphasized(self, samples: Tensor) -> Tensor:
        """Return samples (..., T) minus `pre_emphasis` times the previous sample."""
        if not self.settings.pre_emphasis:
            return samples
        # The first sample has no previous one: Kaldi repeats the first sample, the other kinds reflect.
        start = samples[..., :1] if self.is_kaldi else samples[..., 1:2]
        return samples - self.settings.pre_emphasis * torch.cat([start, samples[..., :-1]], -1)

    def normalized_log(self, energies: Tensor) -> Tensor:
        """Return the logarithm of mel energies (B, L, num_mels), normalised over the L frames."""
        match self.settings.kind:
            case "kaldi":
                log_mel = energies.clamp(min=torch.finfo(torch.float32).eps).log()
            case "log_mel":
                log_mel = (energies + 1e-6).log()
            case "speechbrain":
                log_mel = 10 * energies.clamp(min=1e-10).log10()
                log_mel = torch.maximum(log_mel, log_mel.amax((1, 2), keepdim=True) - 80)
        match self.settings.normalization:
            case "instance":
                variance, mean = torch.var_mean(log_mel, 1, correction=0, keepdim=True)
                return (log_mel - mean) * (variance + 1e-5).rsqrt()
            case "mean":
                return log_mel - log_mel.mean(1, keepdim=True)
            case "none":
                return log_mel


def _filters(features: Features) -> Tensor:
    # Returns (257, num_mels), or (201, num_mels) for the kind "speechbrain".
    low, high, num_mels = features.low_hz, features.high_hz, features.num_mels
    if features.kind == "speechbrain":  # each triangle is symmetric, with the width below its centre
        ends = [2595 * math.log10(1 + hz / 700) for hz in (low, high)]
        hz = 700 * (10 ** (torch.linspace(ends[0], ends[1], num_mels + 2) / 2595) - 1)
        slopes = (torch.linspace(0, SAMPLE_RATE // 2, 201)[:, None] - hz[1:-1]) / (hz[1:] - hz[:-1])[:-1]
        return (1 - slopes.abs()).clamp(min=0)
    if features.kind == "log_mel":  # torchaudio's own defaults: HTK's scale, filters of height 1
        return torchaudio.functional.melscale_fbanks(257, low, high, num_mels, SAMPLE_RATE)  # type: ignore[no-any-return]
    mel_banks = torchaudio.compliance.kaldi.get_mel_banks
    filters, _ = mel_banks(num_mels, 512, SAMPLE_RATE, low, high, 100.0, -500.0, 1.0)
    return F.pad(filters.T, (0, 0, 0, 1))  # Kaldi's filters leave the last bin out.


class Waveform(nn.Module):
    """Convert waveforms (B, T) to floats with one channel, (B, 1, T), for encoders without a spectrogram."""

    def __init__(self, min_samples: int) -> None:
        super().__init__()
        self.min_samples = min_samples

    def forward(self, waveform: Tensor) -> Tensor:
        """Return (B, 1, T) in [-1, 1); raises ValueError for fewer samples than `min_samples`."""
        _check_length(waveform, self.min_samples)
        return to_float(waveform)[:, None]


def _check_length(waveform: Tensor, min_samples: int) -> None:
    if waveform.ndim != 2 or waveform.shape[1] < min_samples:
        raise ValueError(
            f"Waveforms of shape {tuple(waveform.shape)} cannot be encoded: give (B, T) with at least "
            f"{min_samples} samples ({1000 * min_samples // SAMPLE_RATE} ms)."
        )
