"""LeJEPA: views that agree, and are normally distributed. Balestriero and LeCun, arXiv 2511.08544."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup
from sslsv.models.fields import LayerDims, MethodConfig, ShortSeconds
from sslsv.models.rows import by_sample
from sslsv.models.terms import sigreg
from sslsv.models.two_view import ProjectedViews
from sslsv.ops import distributed
from sslsv.settings import refuse_if, section


def centre_distance(projections: Tensor, num_long: int) -> Tensor:
    """Return the mean over all entries of (z_v - mean of the long views)^2 of projections (V, B, P).

    Long views come first; the gradient passes through both sides.
    """
    return (projections - projections[:num_long].mean(0)).square().mean()


class LeJEPA(ProjectedViews):
    """Pull views together and keep them normally distributed: no teacher, predictor or negatives, one weight.

    The loss is sigreg_weight * SIGReg + (1 - sigreg_weight) * `centre_distance` of projections that are not
    normalised. Views pass through the encoder by length, then all of them together through the projector.
    """

    @section
    class Config(MethodConfig):
        """Hold the settings of LeJEPA; weight and directions are the paper's, which is not about speakers."""

        name: Literal["lejepa"] = "lejepa"
        long_seconds: Annotated[float, Field(ge=0.1, description="length of a long view, seconds")] = 4.0
        short_seconds: ShortSeconds = 2.0
        num_long: Annotated[int, Field(ge=1, description="views whose mean all views approach")] = 2
        num_short: Annotated[int, Field(ge=0, description="views that are not in the mean")] = 4
        projector_dims: LayerDims = (2048, 2048, 64)
        sigreg_weight: Annotated[
            float, Field(ge=0, le=1, description="share of SIGReg in the loss; the distance has the rest")
        ] = 0.05
        num_directions: Annotated[int, Field(ge=1, description="random directions of SIGReg a step")] = 1024

        def __post_init__(self) -> None:
            """Refuse a single view, which has nothing to agree with."""
            is_alone = self.num_long + self.num_short < 2
            refuse_if(is_alone, "num_long is 1 and num_short 0; there must be two views or more")

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        long = ViewGroup("long", config.num_long, config.long_seconds)
        short = ViewGroup("short", config.num_short, config.short_seconds)
        super().__init__(config, encoder, long, short)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of all workers' batches; autocast covers encoder and projector, not the loss."""
        embeddings = self.encode(batch)
        projections = self.projector(embeddings)
        num_views = self.config.num_long + self.config.num_short
        with torch.autocast(projections.device.type, enabled=False):
            # Samples come first, so that the rows of all workers, one after the other, are the global batch.
            rows = distributed.gather(by_sample(projections, num_views), loss_is_whole=True)  # (W*B, V, P)
            projections = rows.transpose(0, 1)
            normality = sigreg(projections, progress.generator(), self.config.num_directions)
            distance = centre_distance(projections, self.config.num_long)
            loss = self.config.sigreg_weight * normality + (1 - self.config.sigreg_weight) * distance
        metrics = {"sigreg": normality.detach(), "distance": distance.detach()}
        return self.regularized(StepOutput(loss, metrics), by_sample(embeddings, num_views), progress)
