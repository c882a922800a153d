"""BYOL: predict what a slowly moving teacher makes of the other view. Grill et al., arXiv 2006.07733."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput
from sslsv.models.fields import CropSeconds, LayerDims, Momentum, Regularizers, check_predictor
from sslsv.models.rows import paired
from sslsv.models.teacher import TwoViewTeacherModel
from sslsv.models.terms import feature_std
from sslsv.ops.layers import projector
from sslsv.settings import section


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return [2 - 2 cos(p_a, z_b)] + [2 - 2 cos(p_b, z_a)], mean over rows, from 0 to 8.

    Predictions p of the student and targets z of the teacher are (B, 2, P), for the views a and b: equation
    2, made symmetric as in the paper. The loss of a row depends on no other row.
    """
    cosines = F.cosine_similarity(predictions, targets.flip(1), dim=2)
    return (2 - 2 * cosines).sum(1).mean()


class BYOL(TwoViewTeacherModel):
    """Predict a teacher's projections of the other view; no negatives (bootstrap your own latent)."""

    @section
    class Config:
        """Hold the settings of BYOL; the defaults are those published for VoxCeleb."""

        name: Literal["byol"] = "byol"
        crop_seconds: CropSeconds = 2.0
        projector_dims: LayerDims = (2048, 2048, 512)
        predictor_dims: LayerDims = (4096, 512)
        teacher_momentum: Momentum = 0.996  # at the start; it rises to 1 by a half cosine
        regularizers: Regularizers = ()

        def __post_init__(self) -> None:
            """Refuse predictions that cannot be compared with projections."""
            check_predictor(self.predictor_dims, self.projector_dims)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        self.predictor = projector(self.projection_dim, config.predictor_dims)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; averaged over workers, that of the global batch."""
        embeddings, projections, targets = self.project(batch["views"])
        predictions = self.predictor(projections)
        with torch.autocast(predictions.device.type, enabled=False):
            loss = byol_loss(paired(predictions), targets)
            target_spread = feature_std(targets.flatten(0, 1))
        output = StepOutput(loss, {"target_feature_std": target_spread})
        return self.regularized(output, paired(embeddings), progress)
