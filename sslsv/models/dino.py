"""DINO: predict a teacher's output for long crops from any crop. Caron et al., ICCV 2021, arXiv 2104.14294.

With `regularizer_weight` above 0 it is RDINO (Chen et al., ICASSP 2023, arXiv 2211.04168). With
`balance_iterations` above 0, targets are those of DINOv2 (Oquab et al., TMLR 2024, arXiv 2304.07193).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup, by_sample, by_view, drop_gradients
from sslsv.models.clustering import sinkhorn
from sslsv.models.fields import BalanceIterations, Positives, PrototypeConfig, Weight
from sslsv.models.heads import PrototypeModel, log_sum_exp
from sslsv.models.terms import feature_std, variance_and_covariance
from sslsv.ops import distributed
from sslsv.ops.layers import full_precision
from sslsv.settings import refuse_if, section

_NUM_LONG = 2  # long crops per utterance


def dino_targets(rows: Tensor, prototypes: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Return softmax((cosines - centre) / temperature), (G, B, K), of the teacher's unit rows (G, B, P).

    Prototypes are unit rows (K, P). The centre (K,) is the one before this step's update.
    """
    logits = rows @ prototypes.T
    return logits.sub_(centre).div_(temperature).softmax(2)


def dino_loss(rows: Tensor, prototypes: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy between targets (G, B, K) and the student's softmax(cosines / temperature).

    The student's unit rows (V, B, P) hold the G long views first; prototypes are unit rows (K, P). The loss
    is the mean over rows and over the G * V - G pairs of a target and another view.
    """
    # The sum over k of target_k * (row . prototype_k) is row . (sum over k of target_k * prototype_k), so
    # only the log partition function needs the student's logits.
    expected = torch.einsum("gbp,vbp->gvb", targets @ prototypes, rows) / temperature
    terms = (log_sum_exp(rows, prototypes, temperature) - expected).mean(2)  # (G, V)
    return (terms.sum() - terms.diagonal().sum()) / (terms.numel() - len(terms))


def rdino_regularizer(rows: Tensor, num_prototypes: int) -> Tensor:
    """Return 5 * variance hinge + squared off-diagonal covariances / num_prototypes, for rows (B, H).

    As in the authors' code, covariances are divided by the number of prototypes, not by H. The authors'
    factor of the hinge is 10, half for the student and half for the teacher. The teacher's terms have no
    gradient and are left out here, which only lowers the value of the loss.
    """
    variance, covariance = variance_and_covariance(rows)
    return 5.0 * variance + covariance * (rows.shape[1] / num_prototypes)


def warmed_up(first: float, last: float, num_epochs: int, epoch: int) -> float:
    """Return a linearly warmed-up value: `first` in epoch 0, `last` from epoch num_epochs - 1 on."""
    return last if epoch >= num_epochs else first + (last - first) * epoch / max(num_epochs - 1, 1)


class DINO(PrototypeModel):
    """Train a student on all crops to predict a teacher's output for long crops.

    The teacher's outputs are sharpened, and centred by a running mean or balanced over the global batch.

    Batch norms of encoder and head normalise the long views together and the short views together, as in the
    code of the published speaker results. DINO's authors pass all crops through the head at once. Embeddings
    come from the teacher.
    """

    centre: Tensor  # (K,), running mean of the teacher's cosines

    @section
    class Config(PrototypeConfig):
        """Hold the settings of DINO; the defaults are those with the best published results on VoxCeleb."""

        name: Literal["dino"] = "dino"
        first_teacher_temperature: Annotated[float, Field(gt=0, description="temperature in epoch 0")] = 0.04
        temperature_warmup_epochs: Annotated[int, Field(ge=0, description="epochs of linear warm-up")] = 0
        centre_momentum: Annotated[float, Field(ge=0, le=1, description="share kept per step")] = 0.9
        # Above 0, balancing replaces centring, as in DINOv2; targets of few prototypes then stay non-uniform.
        balance_iterations: BalanceIterations = 0
        frozen_epochs: Annotated[int, Field(ge=0, description="first epochs with fixed prototypes")] = 1
        # 0 is plain DINO. RDINO uses 0.2, reached from 0.05 within 10 epochs.
        regularizer_weight: Weight = 0.0
        first_regularizer_weight: Weight = 0.05
        regularizer_warmup_epochs: Annotated[int, Field(ge=0, description="epochs of linear warm-up")] = 10
        regularizer_dim: Annotated[int, Field(ge=2, description="units of the regularised layer")] = 8192
        positives: Positives = None

        def __post_init__(self) -> None:
            super().__post_init__()
            refuse_if(
                self.balance_iterations > 0 and self.centre_momentum != 0.9,
                f"centre_momentum is {self.centre_momentum}, but balanced targets have no centre; leave it "
                "out, or set balance_iterations to 0",
            )

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        wide_dim = config.regularizer_dim if config.regularizer_weight else 0
        super().__init__(config, encoder, ViewGroup("long", _NUM_LONG, config.long_seconds), wide_dim)
        self.register_buffer("centre", torch.zeros(config.num_prototypes))
        self.add_teacher("encoder", "head", "prototypes")
        self.add_positives(config.positives, size, _NUM_LONG * config.head_dims[-1])

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's rows, with the old centre; update the centre if it is in use.

        The regulariser uses the global batch. `teacher_entropy`, in nats, is ln K for uniform targets.
        """
        config, num_rows = self.config, len(batch["long"])
        long, short = by_view(batch["long"]), by_view(batch["short"])
        embeddings = [self.encoder(long), self.encoder(short)]
        hidden = [self.head.hidden(each) for each in embeddings]
        rows = torch.cat([self.head.to_bottleneck(each) for each in hidden])
        with torch.no_grad():
            teacher_rows = self.teacher["head"](self.teacher["encoder"](long))
        with torch.autocast(rows.device.type, enabled=False):
            own_rows = torch.unflatten(teacher_rows, 0, (-1, num_rows))
            all_rows = distributed.gather(own_rows.transpose(0, 1))  # (W*B, G, P)
            positives, sampling = self.sample_positives(all_rows, batch, progress)
            targets = self.targets(positives, progress)
            if not config.balance_iterations:
                self.move_centre(own_rows)
            rows = torch.unflatten(rows, 0, (-1, num_rows))
            loss = dino_loss(rows, self.prototypes(), targets, config.student_temperature)
            entropy = torch.special.entr(targets).sum(2).mean()
            spread = feature_std(full_precision(torch.cat(embeddings).detach()))
            metrics = {"teacher_entropy": entropy, "batch_feature_std": spread} | sampling
            if config.regularizer_weight:
                means = torch.unflatten(full_precision(hidden[0]), 0, (-1, num_rows)).mean(0)
                all_means = distributed.gather(means, is_global_loss=True)
                penalty = rdino_regularizer(all_means, config.num_prototypes)
                first, last = config.first_regularizer_weight, config.regularizer_weight
                weight = warmed_up(first, last, config.regularizer_warmup_epochs, progress.epoch)
                loss = loss + weight * penalty
                metrics["regularizer"] = penalty.detach()
        return self.regularized(StepOutput(loss, metrics), by_sample(embeddings[0]), progress)

    @torch.no_grad()
    def targets(self, rows: Tensor, progress: Progress) -> Tensor:
        """Return this worker's targets (G, B, K) from the teacher's unit rows (W*B, G, P) of all workers."""
        config, prototypes = self.config, self.teacher["prototypes"]()
        first, last = config.first_teacher_temperature, config.teacher_temperature
        temperature = warmed_up(first, last, config.temperature_warmup_epochs, progress.epoch)
        if config.balance_iterations:
            # All long views are balanced as one batch, as in DINOv2's code.
            codes = sinkhorn(rows.flatten(0, 1) @ prototypes.T, temperature, config.balance_iterations)
            return distributed.own_rows(torch.unflatten(codes, 0, (-1, rows.shape[1]))).transpose(0, 1)
        own = distributed.own_rows(rows).transpose(0, 1)
        return dino_targets(own, prototypes, self.centre, temperature)

    @torch.no_grad()
    def move_centre(self, rows: Tensor) -> None:
        """Move the centre towards the mean over all workers; `rows` (G, B, P) are this worker's unit rows."""
        # The mean of all logits equals the logits of the mean row, so workers exchange P values instead of K.
        mean_logits = self.teacher["prototypes"]() @ distributed.all_reduce_mean(rows.mean((0, 1)))
        self.centre.lerp_(mean_logits, 1.0 - self.config.centre_momentum)

    def before_step(self, progress: Progress) -> None:
        """Clip each tensor's gradient separately; freeze the prototypes in the first epochs."""
        super().before_step(progress)
        if progress.epoch < self.config.frozen_epochs:
            drop_gradients(self.prototypes.parameters())
