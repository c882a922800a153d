"""Supervised speaker classification with margins, as a reference and for fine-tuning.

Sources: additive angular margin, Deng et al., arXiv 1801.07698; sub-centres, Deng et al., ECCV 2020;
inter-top-k, Zhao et al., arXiv 2110.05042; SphereFace2, Wen et al., arXiv 2108.01513, as in wespeaker.
See `gates` for labels that contain errors, such as those from clustering.
"""

import math
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import Corpus, CorpusSize, Model, Progress, StepOutput, ViewGroup
from sslsv.models.fields import CorrectionConfig, GateConfig, MarginSchedule, MethodConfig
from sslsv.models.gates import CORRECTED, KEPT, LEFT_OUT, Gate
from sslsv.models.margins import add_angle, rising_share, subtract_angle
from sslsv.ops import distributed
from sslsv.ops.layers import full_precision
from sslsv.settings import refuse_if, section

_POSITIVE_WEIGHT = 0.7  # weight of the target class in SphereFace2


def aam_logits(cosines: Tensor, labels: Tensor, margin: Tensor | float, scale: float) -> Tensor:
    """Return scale * cosines (B, K) with the target's angle increased by `margin` (see `add_angle`)."""
    target = add_angle(cosines.gather(1, labels[:, None]), margin)
    return scale * cosines.scatter(1, labels[:, None], target)


def harder_negatives(cosines: Tensor, labels: Tensor, count: int, margin: Tensor | float) -> Tensor:
    """Return cosines (B, K) with the angles of the `count` nearest other classes decreased by `margin`."""
    count = min(count, cosines.shape[1] - 1)
    if count == 0:
        return cosines
    columns = cosines.detach().scatter(1, labels[:, None], -2.0).topk(count, dim=1).indices
    return cosines.scatter(1, columns, subtract_angle(cosines.gather(1, columns), margin))


def sphereface2_loss(
    cosines: Tensor, labels: Tensor, margin: Tensor | float, scale: float, bias: Tensor
) -> Tensor:
    """Return the binary losses of the K classes (SphereFace2, type C), summed over classes, mean over rows.

    g(z) = 2 ((z + 1) / 2)^3 - 1 spreads the cosines. The target class costs softplus(-scale (g - margin) -
    bias), weighted by 0.7; each other class costs softplus(scale (g + margin) + bias), weighted by 0.3.
    """
    spread = 2 * ((cosines + 1) / 2).pow(3) - 1
    own = labels[:, None]
    positives = F.softplus(-scale * (spread.gather(1, own) - margin) - bias).sum(1)
    negatives = F.softplus(scale * (spread + margin) + bias).scatter(1, own, 0.0).sum(1)
    return (_POSITIVE_WEIGHT * positives + (1 - _POSITIVE_WEIGHT) * negatives).mean()


class Supervised(Model):
    """Classify the speakers of the training lists; this uses labels."""

    needs_labels = True

    @section
    class Config(MethodConfig):
        """Hold the settings of supervised training; the defaults are those published for VoxCeleb2."""

        name: Literal["supervised"] = "supervised"
        crop_seconds: Annotated[float, Field(ge=0.1, description="length of a crop, seconds")] = 2.0
        scale: Annotated[float, Field(gt=0, description="factor of the cosines")] = 30.0
        loss: Annotated[
            Literal["aam", "sphereface2"],
            Field(description="aam: softmax with an angular margin; sphereface2: one binary loss per class"),
        ] = "aam"
        margin: Annotated[
            float,
            Field(ge=0, lt=math.pi / 2, description="target-class margin; aam: radians, sphereface2: cosine"),
        ] = 0.2
        margin_schedule: MarginSchedule = field(default_factory=MarginSchedule)
        num_subcenters: Annotated[int, Field(ge=1, description="centres per class; the nearest counts")] = 1
        num_hard_negatives: Annotated[
            int, Field(ge=0, description="nearest other classes that also get a margin (inter-top-k)")
        ] = 0
        hard_margin: Annotated[float, Field(ge=0, lt=math.pi / 2, description="inter-top-k: radians")] = 0.06
        keeps_classes: Annotated[
            bool, Field(description="with encoder.init: also load that run's classes (large margin)")
        ] = False
        gate: GateConfig = field(default_factory=GateConfig)
        correction: Annotated[
            CorrectionConfig | None, Field(description="relabels utterances left out; null = no relabelling")
        ] = None

        def __post_init__(self) -> None:
            is_gated = self.gate.name != "none"
            refuse_if(
                is_gated and self.loss != "aam",
                f"gate.name is {self.gate.name!r} and loss {self.loss!r}; gates use the cross entropy of "
                "aam: set loss to aam, or gate.name to none",
            )
            refuse_if(
                self.correction is not None and not is_gated,
                "correction is set, but gate.name is none, so that no utterance is left out; choose a gate, "
                "or set correction to null",
            )

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize) -> None:
        super().__init__(config)
        if size.num_speakers < 2:
            raise ValueError(
                f"The training utterances have {size.num_speakers} speaker(s), and a classifier needs two: "
                "give lists with two or more, or a larger data.fraction."
            )
        self.views = (ViewGroup("views", 1, config.crop_seconds),)
        if config.correction is not None:
            self.views += (ViewGroup("clean", 1, config.crop_seconds, is_clean=True),)
        self.encoder = encoder
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        num_rows = size.num_speakers * config.num_subcenters  # the centres of a class are adjacent
        self.classes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_rows, dim)))
        self.bias = nn.Parameter(torch.zeros(())) if config.loss == "sphereface2" else None
        is_gated = config.gate.name != "none"
        self.gate = Gate(config.gate, size.num_utterances) if is_gated else None

    def start_from(self, encoder: nn.Module, model: Model | None) -> None:
        """Load a trained encoder and, with `keeps_classes`, the classes of its supervised run."""
        super().start_from(encoder, model)
        if not self.config.keeps_classes:
            return
        classes = getattr(model, "classes", None)
        if classes is None or classes.shape != self.classes.shape:
            actual = "has none" if classes is None else f"has {len(classes)}"
            raise ValueError(
                f"model.keeps_classes is true and this run needs {len(self.classes)} class centres, but "
                f"encoder.init {actual}; set it to false, or start from a supervised run on the same lists "
                "with the same data.speeds_are_classes"
            )
        with torch.no_grad():
            self.classes.copy_(classes)
            bias = getattr(model, "bias", None)
            if self.bias is not None and bias is not None:
                self.bias.copy_(bias)

    def start_epoch(self, progress: Progress, corpus: Corpus) -> None:
        """Update the threshold of the gate."""
        super().start_epoch(progress, corpus)
        if self.gate is not None:
            self.gate.start_epoch(progress)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows; `accuracy` is computed without the margin.

        With a gate, rows are weighted so that the mean over workers is the mean over all kept rows. Once
        labels are corrected, it is the sum over kept and corrected rows divided by the global batch size.
        """
        config, labels = self.config, batch["speaker"]
        embeddings = self.encoder(batch["views"][:, 0])
        cosines = self.cosines(embeddings)
        share = 1.0 if config.margin_schedule.name == "constant" else self.margin_share(cosines, progress)
        targets, weights, gate_metrics = labels, None, {}
        if self.gate is not None:
            targets, weights, gate_metrics = self.judge(self.gate, cosines, batch, share, progress)
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.bias is not None:
                hardened = self._hardened(cosines, labels, share)
                loss = sphereface2_loss(hardened, labels, share * config.margin, config.scale, self.bias)
            elif weights is None:
                loss = self._losses(cosines, labels, share, "mean")
            else:
                loss = (weights * self._losses(cosines, targets, share)).sum()
            accuracy = (cosines.detach().argmax(1) == labels).to(loss.dtype).mean()
        output = StepOutput(loss, {"accuracy": accuracy, **gate_metrics})
        return self.regularized(output, full_precision(embeddings)[:, None], progress)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def margin_share(self, cosines: Tensor, progress: Progress) -> Tensor:
        """Return the share of the full margin, a tensor (); a float would be compiled again in each step."""
        epochs = progress.fraction * progress.total_epochs
        return cosines.new_full((), rising_share(self.config.margin_schedule, epochs))

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosine of each embedding (B, D) with the nearest centre of each class, (B, K)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = F.normalize(full_precision(embeddings), dim=1)
            cosines = rows @ F.normalize(full_precision(self.classes), dim=1).T
            return torch.unflatten(cosines, 1, (-1, self.config.num_subcenters)).amax(2)

    # Not compiled: each new number of rows left out would trigger another compilation.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def judge(
        self, gate: Gate, cosines: Tensor, batch: dict[str, Tensor], share: Tensor | float, progress: Progress
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return labels (B,), some corrected, weights of the rows' losses (B,), and the gate's metrics.

        Only rows left out are encoded again, from clean crops and in evaluation mode, so that running
        statistics do not change.
        """
        labels, correction = batch["speaker"], self.config.correction
        losses = self._losses(cosines, labels, share)
        outcomes = gate.judge(losses, progress)
        is_correcting = correction is not None and progress.epoch >= correction.start_epoch
        if correction is not None and is_correcting:
            left_out = torch.nonzero(outcomes == LEFT_OUT)[:, 0]
            predicted, probabilities = self.predict(batch["clean"][left_out, 0], correction.temperature)
            is_sure = probabilities > correction.threshold
            labels = labels.index_put((left_out[is_sure],), predicted[is_sure])
            outcomes[left_out[is_sure]] = CORRECTED
        all_outcomes = gate.remember(batch["utterance"], losses, outcomes)
        kept, corrected = ((all_outcomes == code).to(losses.dtype) for code in (KEPT, CORRECTED))
        count = len(all_outcomes) if is_correcting else kept.sum().clamp_min(1)
        weights = (outcomes != LEFT_OUT).to(losses.dtype) * distributed.world_size() / count
        metrics = {"kept": kept.mean(), "gate_threshold": gate.threshold.clone()}
        return labels, weights, metrics | ({"corrected": corrected.mean()} if correction is not None else {})

    def predict(self, crops: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return the nearest class of clean crops (R, T) and its softmax probability, both (R,)."""
        if not len(crops):
            return crops.new_zeros(0, dtype=torch.int64), self.classes.new_zeros(0)
        was_training = self.encoder.training
        cosines = self.cosines(self.encoder.eval()(crops))
        self.encoder.train(was_training)
        surest = (cosines / temperature).softmax(1).max(1)
        return surest.indices, surest.values

    def _hardened(self, cosines: Tensor, labels: Tensor, share: Tensor | float) -> Tensor:
        config = self.config
        return harder_negatives(cosines, labels, config.num_hard_negatives, share * config.hard_margin)

    def _losses(
        self, cosines: Tensor, labels: Tensor, share: Tensor | float, reduction: str = "none"
    ) -> Tensor:
        hardened = self._hardened(cosines, labels, share)
        logits = aam_logits(hardened, labels, share * self.config.margin, self.config.scale)
        return F.cross_entropy(logits, labels, reduction=reduction)
