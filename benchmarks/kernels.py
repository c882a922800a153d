"""Compare features and losses with their usual implementations, on one thread."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchaudio
from torch import Tensor, nn

from benchmarks.row import Row, Settings, in_turns, speed_row, time_row
from sslsv.encoders.features import Spectrogram
from sslsv.models.terms import barlow_twins_loss, vicreg_loss


class NaiveFeatures(nn.Module):
    """Compute features by torchaudio's MelSpectrogram, log and InstanceNorm1d."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, window_fn=torch.hamming_window
        )
        self.norm = nn.InstanceNorm1d(40)

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, T) in [-1, 1) to (B, 40, L)."""
        return self.norm((self.mel(waveforms) + 1e-6).log())  # type: ignore[no-any-return]


def naive_vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return VICReg's loss with weights 1, 1, 0.1, using D x D covariance matrices."""
    total = nn.functional.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        total = total + torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        centred = z - z.mean(0)
        covariance = centred.T @ centred / (len(z) - 1)
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        total = total + 0.1 * off_diagonal.square().sum() / z.shape[1]
    return total


def naive_barlow_twins(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return Barlow Twins' loss with weight 0.005 and scale 0.025, using the D x D correlation matrix."""
    norm = nn.BatchNorm1d(z_a.shape[1], affine=False)
    correlation = norm(z_a).T @ norm(z_b) / len(z_a)
    on_diagonal = (correlation.diagonal() - 1).square().sum()
    off_diagonal = (correlation - torch.diag(correlation.diagonal())).square().sum()
    return 0.025 * (on_diagonal + 0.005 * off_diagonal)


def rows(settings: Settings) -> Iterator[Row]:
    """Measure log-mel of 128 crops of 2 s, and losses of 256 x 2048 projections, forward and backward."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    waveforms = 0.1 * torch.randn(8 if settings.is_quick else 128, 32_000, generator=generator)
    ours, naive = Spectrogram(), NaiveFeatures()
    torch.testing.assert_close(ours(waveforms[:2]), naive(waveforms[:2]), atol=1e-3, rtol=1e-3)
    times = in_turns(lambda: ours(waveforms), lambda: naive(waveforms), settings.pairs)
    yield speed_row(
        "log-mel and instance norm",
        "torchaudio, whole batch",
        times,
        len(waveforms),
        "crops/s",
        target=2.0,
    )
    z_a, z_b = torch.randn(2, 256, 256 if settings.is_quick else 2048, generator=generator)
    losses: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
        "VICReg": (lambda a, b: vicreg_loss(a, b, 1.0, 1.0, 0.1)[0], naive_vicreg),
        "Barlow Twins": (lambda a, b: barlow_twins_loss(a, b, 0.005, 0.025)[0], naive_barlow_twins),
    }
    for name, (fast, slow) in losses.items():
        torch.testing.assert_close(fast(z_a, z_b), slow(z_a, z_b), rtol=1e-4, atol=1e-4)
        times = in_turns(partial(_step, fast, z_a, z_b), partial(_step, slow, z_a, z_b), settings.pairs)
        yield time_row(
            f"{name} loss, batch 256, {z_a.shape[1]} dimensions",
            "D x D matrix",
            times,
            target=10.0,
            unit="ms",
        )
    torch.set_num_threads(threads)


def _step(loss: Callable[..., Tensor], z_a: Tensor, z_b: Tensor) -> None:
    loss(z_a.detach().requires_grad_(), z_b.detach().requires_grad_()).backward()
