"""LeJEPA: views that agree, and are normally distributed. Balestriero and LeCun, arXiv 2511.08544."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup
from sslsv.models.fields import LayerDims, Regularizers
from sslsv.models.terms import sigreg
from sslsv.ops import distributed
from sslsv.ops.layers import full_precision, projector
from sslsv.settings import section


def centre_distance(projections: Tensor, num_long: int) -> Tensor:
    """Return the mean over all entries of (z_v - mean of the long views)^2 of projections (V, B, P).

    Long views come first; the gradient passes through both sides.
    """
    return (projections - projections[:num_long].mean(0)).square().mean()


class LeJEPA(Model):
    """Pull views together and keep them normally distributed: no teacher, predictor or negatives, one weight.

    The loss is sigreg_weight * SIGReg + (1 - sigreg_weight) * `centre_distance` of projections that are not
    normalised. Views pass through the encoder by length, then all of them together through the projector.
    """

    @section
    class Config:
        """Hold the settings of LeJEPA; weight and directions are the paper's, which is not about speakers."""

        name: Literal["lejepa"] = "lejepa"
        long_seconds: Annotated[float, Field(ge=0.1, description="length of a long view, seconds")] = 4.0
        short_seconds: Annotated[float, Field(ge=0.1, description="length of a short view, seconds")] = 2.0
        num_long: Annotated[int, Field(ge=1, description="views whose mean all views approach")] = 2
        num_short: Annotated[int, Field(ge=0, description="views that are not in the mean")] = 4
        projector_dims: LayerDims = (2048, 2048, 64)
        sigreg_weight: Annotated[
            float, Field(ge=0, le=1, description="share of SIGReg in the loss; the distance has the rest")
        ] = 0.05
        num_directions: Annotated[int, Field(ge=1, description="random directions of SIGReg in a step")] = (
            1024
        )
        regularizers: Regularizers = ()

        def __post_init__(self) -> None:
            """Refuse a single view, which has nothing to agree with."""
            if self.num_long + self.num_short < 2:
                raise ValueError("num_long is 1 and num_short 0; there must be two views or more.")

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__()
        self.config = config
        groups = (
            ViewGroup("long", config.num_long, config.long_seconds),
            ViewGroup("short", config.num_short, config.short_seconds),
        )
        self.views = tuple(group for group in groups if group.count)
        self.encoder = encoder
        self.projector = projector(int(encoder.embedding_dim), config.projector_dims)  # type: ignore[arg-type]

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of all workers' batches; autocast covers encoder and projector, not the loss."""
        waveforms = [batch[group.name].transpose(0, 1) for group in self.views]  # (views, B, samples) each
        embeddings = torch.cat([self.encoder(views.flatten(0, 1)) for views in waveforms])
        projections = self.projector(embeddings)
        num_views = sum(group.count for group in self.views)
        with torch.autocast(projections.device.type, enabled=False):
            # Samples come first, so that the rows of all workers, one after the other, are the global batch.
            by_sample = torch.stack(full_precision(projections).chunk(num_views), 1)  # (B, V, P)
            projections = distributed.gather(by_sample).transpose(0, 1)  # (V, W*B, P)
            normality = sigreg(projections, progress.generator(), self.config.num_directions)
            distance = centre_distance(projections, self.config.num_long)
            loss = self.config.sigreg_weight * normality + (1 - self.config.sigreg_weight) * distance
        metrics = {"sigreg": normality.detach(), "distance": distance.detach()}
        return self.regularized(
            StepOutput(loss, metrics), torch.stack(embeddings.chunk(num_views), 1), progress
        )
