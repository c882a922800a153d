"""Supervised speaker classification with margins, as reference and for fine-tuning.

Sources: additive angular margin, Deng et al., arXiv 1801.07698; sub-centres, Deng et al., ECCV 2020;
inter-top-k, Zhao et al., arXiv 2110.05042; SphereFace2, Wen et al., arXiv 2108.01513, as wespeaker has it.
"""

import math
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup
from sslsv.models.fields import MarginSchedule, Regularizers
from sslsv.models.margins import add_angle, rising_share, subtract_angle
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


def harder_negatives(cosines: Tensor, labels: Tensor, count: int, margin: float) -> Tensor:
    """Return cosines (B, K) with the angles of the `count` nearest other classes smaller by `margin`."""
    count = min(count, cosines.shape[1] - 1)
    if count == 0 or margin == 0:
        return cosines
    places = cosines.detach().scatter(1, labels[:, None], -2.0).topk(count, dim=1).indices
    return cosines.scatter(1, places, subtract_angle(cosines.gather(1, places), margin))


def sphereface2_loss(
    cosines: Tensor, labels: Tensor, margin: float, scale: float, bias: Tensor, positive_weight: float = 0.7
) -> Tensor:
    """Return the sum over classes of a binary loss each (SphereFace2, type C), mean over the rows (B, K).

    g(z) = 2 ((z + 1) / 2)^3 - 1 spreads the cosines; the target costs softplus(-scale (g - margin) - bias),
    and any other class softplus(scale (g + margin) + bias).
    """
    spread = 2 * ((cosines + 1) / 2).pow(3) - 1
    own = labels[:, None]
    positives = F.softplus(-scale * (spread.gather(1, own) - margin) - bias).sum(1)
    negatives = F.softplus(scale * (spread + margin) + bias).scatter(1, own, 0.0).sum(1)
    return (positive_weight * positives + (1 - positive_weight) * negatives).mean()


class Supervised(Model):
    """Classify the speakers of the training lists; this uses labels."""

    needs_labels = True

    @section
    class Config:
        """Hold the settings of supervised training; the defaults are those published for VoxCeleb2."""

        name: Literal["supervised"] = "supervised"
        crop_seconds: Annotated[float, Field(ge=0.1, description="length of the one view, seconds")] = 2.0
        scale: Annotated[float, Field(gt=0, description="factor of the cosines")] = 30.0
        loss: Annotated[
            Literal["aam", "sphereface2"],
            Field(description="aam: softmax with an angular margin; sphereface2: a binary loss a class"),
        ] = "aam"
        margin: Annotated[
            float,
            Field(ge=0, lt=math.pi / 2, description="of the target class: radians; sphereface2: cosine"),
        ] = 0.2
        margin_schedule: MarginSchedule = field(default_factory=MarginSchedule)
        num_subcenters: Annotated[
            int, Field(ge=1, description="centres of a class; the nearest one counts")
        ] = 1
        num_hard_negatives: Annotated[
            int, Field(ge=0, description="nearest other classes that get a margin too (inter-top-k)")
        ] = 0
        hard_margin: Annotated[
            float, Field(ge=0, lt=math.pi / 2, description="their margin, radians; it rises as `margin` does")
        ] = 0.06
        keeps_classes: Annotated[
            bool,
            Field(description="with encoder.init: start from that run's classes too (large margin)"),
        ] = False
        regularizers: Regularizers = ()

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize) -> None:
        super().__init__()
        if size.num_speakers < 2:
            raise ValueError(
                f"The training utterances have {size.num_speakers} speaker(s), and a classifier needs two: "
                "give lists with two or more, or a larger data.fraction."
            )
        self.config = config
        self.views = (ViewGroup("views", 1, config.crop_seconds),)
        self.encoder = encoder
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        rows = size.num_speakers * config.num_subcenters  # those of a class lie together
        self.classes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim)))
        self.bias = nn.Parameter(torch.zeros(())) if config.loss == "sphereface2" else None

    def start_from(self, encoder: nn.Module, model: Model | None) -> None:
        """Take over a trained encoder and, with `keeps_classes`, the classes of its supervised run."""
        super().start_from(encoder, model)
        if not self.config.keeps_classes:
            return
        classes = getattr(model, "classes", None)
        if classes is None or classes.shape != self.classes.shape:
            found = "has none" if classes is None else f"has {len(classes)}"
            raise ValueError(
                f"model.keeps_classes is true, but of the {len(self.classes)} classes that this run needs, "
                f"encoder.init {found}; set it to false, or start from a supervised run on the same lists "
                "with the same data.speeds_are_classes"
            )
        with torch.no_grad():
            self.classes.copy_(classes)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; `accuracy` is without the margin."""
        embeddings = self.encoder(batch["views"][:, 0])
        labels = batch["speaker"]
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = full_precision(embeddings)
            config = self.config
            cosines = F.normalize(embeddings, dim=1) @ F.normalize(full_precision(self.classes), dim=1).T
            cosines = torch.unflatten(cosines, 1, (-1, config.num_subcenters)).amax(2)
            share = rising_share(config.margin_schedule, progress.fraction * progress.total_epochs)
            hardened = harder_negatives(
                cosines, labels, config.num_hard_negatives, share * config.hard_margin
            )
            if self.bias is None:
                loss = aam_loss(hardened, labels, share * config.margin, config.scale)
            else:
                loss = sphereface2_loss(hardened, labels, share * config.margin, config.scale, self.bias)
            accuracy = (cosines.detach().argmax(1) == labels).to(loss.dtype).mean()
            spread = feature_std(embeddings.detach())
        output = StepOutput(loss, {"accuracy": accuracy, "batch_feature_std": spread})
        return self.regularized(output, embeddings[:, None], progress)
