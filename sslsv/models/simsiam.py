"""SimSiam: predict the other view, without negatives or a teacher. Chen and He, arXiv 2011.10566."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.models.base import Progress, StepOutput, by_sample, decay_groups
from sslsv.models.fields import LayerDims, PredictorConfig
from sslsv.models.terms import feature_std
from sslsv.models.two_view import ProjectedViews
from sslsv.ops.layers import full_precision
from sslsv.settings import section


def simsiam_loss(predictions: Tensor, projections: Tensor) -> Tensor:
    """Return [-cos(p_a, z_b) - cos(p_b, z_a)] / 2, mean over rows, from -1 to 1.

    Predictions p and projections z are (B, 2, P), for the views a and b; no gradient passes through z
    (equation 4). The loss of a row does not depend on other rows.
    """
    return -F.cosine_similarity(predictions, projections.detach().flip(1), dim=2).mean()


class SimSiam(ProjectedViews):
    """Predict the projection of the other view; no gradient passes through this projection.

    SimSiam does not work well for speakers and is included for comparison: the best published result of this
    recipe is an EER of 28.94 %, while methods with negatives reach 6 to 9 %. Both views pass through the
    network together, so batch norms see them as one batch. The authors' code passes them one after the other.
    """

    projector_ends_in_norm = True

    @section
    class Config(PredictorConfig):
        """Hold the settings of SimSiam; the defaults are the authors'."""

        name: Literal["simsiam"] = "simsiam"
        projector_dims: LayerDims = (2048, 2048, 2048)
        predictor_dims: LayerDims = (512, 2048)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups that keep the predictor at the highest rate, while the rest follows the schedule."""
        rest = [*self.encoder.parameters(), *self.projector.parameters()]
        return decay_groups(rest) + decay_groups(self.predictor.parameters(), follows_schedule=False)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; its mean over workers is the global batch's loss.

        `projection_feature_std` is near 1 when projections spread evenly, 0 when they have collapsed.
        """
        embeddings = self.encode(batch)
        projections = self.projector(embeddings)
        predictions = self.predictor(projections)
        with torch.autocast(predictions.device.type, enabled=False):
            loss = simsiam_loss(by_sample(predictions), by_sample(projections))
            spread = feature_std(full_precision(projections.detach()))
        output = StepOutput(loss, {"projection_feature_std": spread})
        return self.regularized(output, by_sample(embeddings), progress)
