"""Log-mel spectrograms of waveforms, on the waveform's device."""

import math

import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn

from sslsv.ops import SAMPLE_RATE as SAMPLE_RATE

_NUM_FFT = 512
_WINDOW_LENGTH = 400  # samples: 25 ms
HOP_LENGTH = 160  # samples: 10 ms


def to_float(waveform: Tensor) -> Tensor:
    """Waveform of any shape in [-1, 1): int16 is divided by 32768, floats are passed on."""
    if waveform.dtype == torch.int16:
        return waveform.float().mul_(1 / 32768)
    if not waveform.is_floating_point():
        raise ValueError(
            f"A waveform of {waveform.dtype} has no known full scale; give int16, or floats in [-1, 1)."
        )
    return waveform


class LogMel(nn.Module):
    """Waveforms (B, T) of 16 kHz -> (B, num_mels, 1 + T // 160), without gradient, float32 in autocast too.

    Hamming windows of 25 ms every 10 ms, centred on reflected edges; power spectrum of 512 points; triangular
    HTK mel filters from 0 to 8000 Hz; natural log of (energy + 1e-6); then every mel bin gets mean 0 and
    biased variance 1 over the utterance's time. Equal to torchaudio's MelSpectrogram followed by log and
    InstanceNorm1d, at less than half the cost on a CPU. A `pre_emphasis` above 0 first subtracts that share
    of the previous sample.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, num_mels: int = 40, pre_emphasis: float = 0.0) -> None:
        super().__init__()
        self.num_mels, self.pre_emphasis = num_mels, pre_emphasis
        margin = (_NUM_FFT - _WINDOW_LENGTH) // 2
        window = F.pad(torch.hamming_window(_WINDOW_LENGTH), (margin, margin))
        filterbank = torchaudio.functional.melscale_fbanks(
            _NUM_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE, norm=None, mel_scale="htk"
        )
        # Every row twice, for a spectrum's real and imaginary squares: the product then adds the two up as
        # well.
        filterbank = filterbank.repeat_interleave(2, 0)
        # Constants: a checkpoint need not hold them.
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", filterbank, persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel energies; ValueError for fewer than 257 samples, which cannot be reflected."""
        if waveform.ndim != 2 or waveform.shape[1] <= _NUM_FFT // 2:
            raise ValueError(
                f"Waveforms of shape {tuple(waveform.shape)} have no spectrogram: give (B, T) with T above "
                f"{_NUM_FFT // 2} samples ({1000 * _NUM_FFT // 2 // SAMPLE_RATE} ms)."
            )
        with torch.autocast(waveform.device.type, enabled=False):
            # Spectra of few seconds stay in the CPU's cache: 2.5 times faster than the whole batch at once.
            seconds = 8 if waveform.device.type == "cpu" else 1024
            rows = max(1, seconds * SAMPLE_RATE // waveform.shape[1])
            log_mel = torch.cat([self._log_mel(chunk) for chunk in torch.split(waveform, rows)])
            variance, mean = torch.var_mean(log_mel, 1, correction=0, keepdim=True)
            return ((log_mel - mean) * (variance + 1e-5).rsqrt()).mT.contiguous()

    def _log_mel(self, waveform: Tensor) -> Tensor:
        waveform = to_float(waveform).to(self.window.dtype)
        if self.pre_emphasis:
            previous = torch.cat([waveform[:, 1:2], waveform[:, :-1]], 1)  # reflected at the start
            waveform = waveform - self.pre_emphasis * previous
        padded = F.pad(waveform, (_NUM_FFT // 2, _NUM_FFT // 2), mode="reflect")
        frames = padded.unfold(1, _NUM_FFT, HOP_LENGTH) * self.window  # (B, L, 512)
        squares = torch.view_as_real(torch.fft.rfft(frames)).flatten(2).square_()  # (B, L, 514)
        return (squares @ self.filterbank).add_(1e-6).log_()


def strided_size(size: int, stride: int) -> int:
    """Length of an axis after a convolution that pads to keep it and then steps by `stride`."""
    return math.ceil(size / stride)
