"""Provide small networks and noise for tests of methods."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import CorpusSize, Progress

PROGRESS = Progress(step=3, total_steps=10, epoch=0, total_epochs=2)
LATER = Progress(step=8, total_steps=10, epoch=1, total_epochs=2)
SECONDS = {"crop_seconds": 0.3, "long_seconds": 0.4, "short_seconds": 0.3}


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return normally distributed float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return float64 rows of length 1."""
    return F.normalize(normal(*shape, seed=seed), dim=-1)


def pair(rows: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return projections of two similar views."""
    a = 0.7 * normal(rows, dims, seed=20) + 2
    return a, a + 0.5 * normal(rows, dims, seed=21)


def small(kind: Any, size: CorpusSize = CorpusSize(20, 7), width: int = 4, **settings: Any) -> Any:
    """Build a model of a method with short crops, fixed initial weights and embeddings of 16 values."""
    torch.manual_seed(8)
    encoder = ThinResNet34(ThinResNet34.Config(width=width, embedding_dim=16, stem_time_stride=2))
    seconds = {name: value for name, value in SECONDS.items() if hasattr(kind.Config, name)}
    return kind(kind.Config(**{**seconds, **settings}), encoder, size)


def batch(model: Any, seed: int = 1, rows: int = 4) -> dict[str, torch.Tensor]:
    """Return a batch of int16 noise, (rows, count, samples) for each group of views."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {group.name: (rows, group.count, round(group.seconds * 16000)) for group in model.views}
    return {
        name: torch.randint(-9000, 9000, shape, generator=generator).to(torch.int16)
        for name, shape in shapes.items()
    }


def each_view(model: Any, data: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the waveforms (rows, samples) of every view, in the order of the groups."""
    return [view for group in model.views for view in data[group.name].unbind(1)]


def shake(module: nn.Module) -> None:
    """Change all weights at random, so that a teacher differs from its student."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weights in module.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))


def shift_positives(model: Any, shift: int) -> None:
    """Give each sample the positive of another sample, as SSPS does; with shift 0 its own."""
    model.sample_positives = lambda rows, *_: (rows.roll(shift, 0), {})


class PlainEncoder(nn.Module):
    """Embed without batch statistics."""

    embedding_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, self.embedding_dim))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        frames = (waveforms.double() / 3000).unflatten(1, (-1, 40))
        return self.layers(frames).square().mean(1)
