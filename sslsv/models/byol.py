"""BYOL: predict a slowly moving teacher's projection of the other view. Grill et al., arXiv 2006.07733."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.models.base import Progress, StepOutput, by_sample
from sslsv.models.fields import Momentum, PredictorConfig
from sslsv.models.terms import feature_std
from sslsv.models.two_view import TwoViewTeacherModel
from sslsv.settings import section


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return [2 - 2 cos(p_a, z_b)] + [2 - 2 cos(p_b, z_a)], mean over rows, from 0 to 8.

    Predictions p of the student and targets z of the teacher are (B, 2, P), for the views a and b. Source:
    equation 2, made symmetric as in the paper. The loss of a row does not depend on other rows.
    """
    cosines = F.cosine_similarity(predictions, targets.flip(1), dim=2)
    return (2 - 2 * cosines).sum(1).mean()


class BYOL(TwoViewTeacherModel):
    """Predict a teacher's projection of the other view, without negatives (bootstrap your own latent)."""

    @section
    class Config(PredictorConfig):
        """Hold the settings of BYOL; the defaults are those published for VoxCeleb."""

        name: Literal["byol"] = "byol"
        teacher_momentum: Momentum = 0.996  # initial value; it rises to 1 along half a cosine

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; its mean over workers is the global batch's loss."""
        embeddings, projections, targets = self.project_both(batch["views"])
        predictions = self.predictor(projections)
        with torch.autocast(predictions.device.type, enabled=False):
            loss = byol_loss(by_sample(predictions), targets)
            target_spread = feature_std(targets.flatten(0, 1))
        output = StepOutput(loss, {"target_feature_std": target_spread})
        return self.regularized(output, by_sample(embeddings), progress)
