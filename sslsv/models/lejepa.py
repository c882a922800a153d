"""LeJEPA: make views agree and be normally distributed. Balestriero and LeCun, arXiv 2511.08544."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup
from sslsv.models.fields import LayerDims, MethodConfig, ShortSeconds
from sslsv.models.terms import sigreg
from sslsv.models.two_view import ProjectedViews
from sslsv.settings import refuse_if, section


class LeJEPA(ProjectedViews):
    """Pull views together and keep them normally distributed, without a teacher, predictor or negatives.

    The loss is sigreg_weight * SIGReg + (1 - sigreg_weight) * distance. The distance is the mean squared
    difference, over all entries, of views to the mean of the long views. Projections are not normalised.
    """

    @section
    class Config(MethodConfig):
        """Hold the settings of LeJEPA; weight and directions are from the paper, which is not on speakers."""

        name: Literal["lejepa"] = "lejepa"
        long_seconds: Annotated[float, Field(ge=0.1, description="length of a long view, seconds")] = 4.0
        short_seconds: ShortSeconds = 2.0
        num_long: Annotated[int, Field(ge=1, description="long views, whose mean all views approach")] = 2
        num_short: Annotated[int, Field(ge=0, description="short views, not part of the mean")] = 4
        projector_dims: LayerDims = (2048, 2048, 64)
        sigreg_weight: Annotated[float, Field(ge=0, le=1, description="SIGReg's share in the loss")] = 0.05
        num_directions: Annotated[int, Field(ge=1, description="random SIGReg directions per step")] = 1024

        def __post_init__(self) -> None:
            has_one_view = self.num_long + self.num_short < 2
            refuse_if(has_one_view, "num_long is 1 and num_short 0; raise one of them: two views are needed")

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        long = ViewGroup("long", config.num_long, config.long_seconds)
        short = ViewGroup("short", config.num_short, config.short_seconds)
        super().__init__(config, encoder, size, long, short)

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the weighted sum of SIGReg and distance; the metrics are the unweighted terms."""
        projections = rows.transpose(0, 1)  # (V, W*B, P)
        normality = sigreg(projections, progress.generator(), self.config.num_directions)
        # Long views come first. Gradients flow through the views and through their mean.
        distance = (projections - projections[: self.config.num_long].mean(0)).square().mean()
        loss = self.config.sigreg_weight * normality + (1 - self.config.sigreg_weight) * distance
        return StepOutput(loss, {"sigreg": normality.detach(), "distance": distance.detach()})
