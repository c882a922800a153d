"""MoCo v3: contrast predictions with a teacher's keys of the same batch. Chen et al., arXiv 2104.02057."""

from typing import Literal

import torch
from torch import Tensor

from sslsv.models.base import Progress, StepOutput, by_sample
from sslsv.models.contrast import accuracy, contrastive_loss, view_logits
from sslsv.models.fields import LayerDims, Momentum, PredictorConfig, Temperature
from sslsv.models.two_view import TwoViewTeacherModel
from sslsv.ops import distributed
from sslsv.settings import section


def moco_v3_loss(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return 2 * temperature * [InfoNCE(q_a, k_b) + InfoNCE(q_b, k_a)], algorithm 1, and `accuracy`.

    Predictions q of the student and keys k of the teacher are (B, 2, P), for the views a and b, and are
    normalised here. The negatives of a query are the B - 1 keys of other samples in the other view. The
    factor 2 * temperature is the authors'; with it, the size of the gradient hardly depends on temperature.
    """
    directions = [view_logits(queries[:, [i]], keys[:, [1 - i]], temperature) for i in (0, 1)]
    loss = 2 * temperature * torch.stack([contrastive_loss(*each) for each in directions]).sum()
    return loss, torch.stack([accuracy(*each) for each in directions]).mean()


class MoCoV3(TwoViewTeacherModel):
    """Contrast predictions with a teacher's keys; negatives come from the global batch, not from a queue."""

    projector_ends_in_norm = True

    @section
    class Config(PredictorConfig):
        """Hold the settings of MoCo v3; heads are those for ResNets; no result for speakers is published."""

        name: Literal["moco_v3"] = "moco_v3"
        projector_dims: LayerDims = (4096, 256)
        # The authors' predictor has no bias in its last layer; here it has one.
        predictor_dims: LayerDims = (4096, 256)
        temperature: Temperature = 0.2  # the authors' value for transformers; their value for ResNets is 1.0
        teacher_momentum: Momentum = 0.99  # initial value; it rises to 1 along half a cosine

    config: Config

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of the global batch; `accuracy` is the share of queries nearest their key."""
        embeddings, projections, targets = self.project_both(batch["views"])
        predictions = self.predictor(projections)
        with torch.autocast(targets.device.type, enabled=False):
            queries = distributed.gather(by_sample(predictions), is_global_loss=True)
            keys = distributed.gather(targets)
            loss, share = moco_v3_loss(queries, keys, self.config.temperature)
        return self.regularized(StepOutput(loss, {"accuracy": share}), by_sample(embeddings), progress)
