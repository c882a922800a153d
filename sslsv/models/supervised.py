"""Supervised speaker classification with an additive angular margin. Deng et al., arXiv 1801.07698."""

import math
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup
from sslsv.models.fields import MarginSchedule, Regularizers
from sslsv.models.margins import add_angle, rising_share
from sslsv.models.terms import feature_std
from sslsv.ops.layers import full_precision
from sslsv.settings import section


def aam_logits(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Return scale * cosines (B, K) in which the target's angle is larger by `margin`, see `add_angle`."""
    target = add_angle(cosines.gather(1, labels[:, None]), margin)
    return scale * cosines.scatter(1, labels[:, None], target)


def aam_loss(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Return the mean cross entropy of `aam_logits` against the labels (B,)."""
    return F.cross_entropy(aam_logits(cosines, labels, margin, scale), labels)


class Supervised(Model):
    """Classify the speakers of the training lists; this uses labels."""

    needs_labels = True

    @section
    class Config:
        """Settings of supervised training; the defaults are those published for VoxCeleb2."""

        name: Literal["supervised"] = "supervised"
        crop_seconds: Annotated[float, Field(ge=0.1, description="length of the one view, seconds")] = 2.0
        scale: Annotated[float, Field(gt=0, description="factor of the cosines")] = 30.0
        margin: Annotated[float, Field(ge=0, lt=math.pi / 2, description="angle to the target, radians")] = (
            0.2
        )
        margin_schedule: MarginSchedule = field(default_factory=MarginSchedule)
        regularizers: Regularizers = ()

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize) -> None:
        super().__init__()
        if size.num_speakers < 2:
            raise ValueError(
                f"The training lists have {size.num_speakers} speaker(s), and a classifier needs two: "
                "give lists with two or more."
            )
        self.config = config
        self.views = (ViewGroup("views", 1, config.crop_seconds),)
        self.encoder = encoder
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        self.classes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(size.num_speakers, dim)))

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; `accuracy` is without the margin."""
        embeddings = self.encoder(batch["views"][:, 0])
        labels = batch["speaker"]
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = full_precision(embeddings)
            cosines = F.normalize(embeddings, dim=1) @ F.normalize(full_precision(self.classes), dim=1).T
            epochs = progress.fraction * progress.total_epochs
            margin = self.config.margin * rising_share(self.config.margin_schedule, epochs)
            loss = aam_loss(cosines, labels, margin, self.config.scale)
            accuracy = (cosines.detach().argmax(1) == labels).to(loss.dtype).mean()
            spread = feature_std(embeddings.detach())
        output = StepOutput(loss, {"accuracy": accuracy, "batch_feature_std": spread})
        return self.regularized(output, embeddings[:, None], progress)
