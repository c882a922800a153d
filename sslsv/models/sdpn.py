"""SDPN: share prototypes between a student and its teacher. Chen et al., ICASSP 2025, arXiv 2308.02774."""

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup, by_sample, by_view, decay_groups
from sslsv.models.clustering import sinkhorn
from sslsv.models.fields import BalanceIterations, NumPrototypes, PrototypeConfig, Temperature, Weight
from sslsv.models.heads import PrototypeModel
from sslsv.models.terms import correlation_penalty, koleo
from sslsv.ops import distributed
from sslsv.settings import section


def sdpn_targets(rows: Tensor, prototypes: Tensor, temperature: float, iterations: int) -> Tensor:
    """Return the balanced softmax(cosines / temperature), (B, K), of the teacher's unit rows (B, P).

    Temperature 0.025 equals the authors' softmax at temperature 0.1, sharpened by the exponent 1 / 0.25.
    """
    # Rows of exp(cosines / temperature) do not sum to 1; few iterations from there give different targets.
    return sinkhorn(F.log_softmax(rows @ prototypes.T / temperature, 1), 1.0, iterations)


def memax(mean_probabilities: Tensor) -> Tensor:
    """Return ln K minus the entropy of the mean prediction (K,): 0 if uniform, ln K if on one prototype."""
    smallest = torch.finfo(mean_probabilities.dtype).tiny  # The slope of -p log p is infinite at 0.
    entropy: Tensor = torch.special.entr(mean_probabilities.clamp(min=smallest)).sum()
    return math.log(len(mean_probabilities)) - entropy


class SDPN(PrototypeModel):
    """Predict the prototypes of a clean long crop from short augmented crops.

    Student and teacher share the prototypes. Mean prediction, balancing and nearest neighbours (KoLeo) use
    the global batch. The authors' code searches neighbours on each GPU separately, which spreads embeddings
    less. Embeddings come from the teacher.
    """

    @section
    class Config(PrototypeConfig):
        """Hold the settings of SDPN, as published for VoxCeleb; the teacher sees one clean long view."""

        name: Literal["sdpn"] = "sdpn"
        num_prototypes: NumPrototypes = 1024
        teacher_temperature: Temperature = 0.025
        balance_iterations: BalanceIterations = 3
        memax_weight: Weight = 1.0
        koleo_weight: Weight = 0.1
        # The second paper (arXiv 2505.13826) uses this instead of koleo; its code and weight are not public.
        correlation_weight: Weight = 0.0
        # The authors sum the prototypes' gradients over their 4 GPUs and average all other gradients.
        prototype_rate_scale: Annotated[float, Field(ge=0, description="factor of the learning rate")] = 4.0

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, ViewGroup("long", 1, config.long_seconds, is_clean=True))
        self.add_teacher("encoder", "head")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the default groups, and one for the prototypes: no decay, scaled learning rate."""
        prototypes = self.prototypes.weight
        others = [parameter for parameter in self.parameters() if parameter is not prototypes]
        scale = self.config.prototype_rate_scale
        return [*decay_groups(others), {"params": [prototypes], "decays": False, "rate_scale": scale}]

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss; the cross entropy is on this worker's rows, all other terms on the global batch.

        `mean_entropy`, in nats, is ln K if prototypes are used equally; `target_entropy` is that of a target.
        """
        config, num_rows = self.config, len(batch["long"])
        embeddings = self.encoder(by_view(batch["short"]))
        rows = self.head(embeddings)
        with torch.no_grad():
            teacher_rows = self.teacher["head"](self.teacher["encoder"](batch["long"][:, 0]))
        with torch.autocast(rows.device.type, enabled=False):
            prototypes = self.prototypes()
            with torch.no_grad():
                all_rows, temperature = distributed.gather(teacher_rows), config.teacher_temperature
                balanced = sdpn_targets(all_rows, prototypes, temperature, config.balance_iterations)
                targets = distributed.own_rows(balanced)
            cosines = torch.unflatten(rows, 0, (-1, num_rows)) @ prototypes.T
            log_probabilities = F.log_softmax(cosines / config.student_temperature, 2)
            prediction = distributed.all_reduce_mean(log_probabilities.exp().mean((0, 1)))
            own_views = by_sample(embeddings, config.num_short)
            views = distributed.gather(own_views, is_global_loss=True).unbind(1)  # (W*B, D) each
            loss = -(targets * log_probabilities).sum(2).mean() + config.memax_weight * memax(prediction)
            if config.koleo_weight:
                loss = loss + config.koleo_weight * torch.stack([koleo(view) for view in views]).sum()
            if config.correlation_weight:
                penalties = torch.stack([correlation_penalty(view) for view in views])
                loss = loss + config.correlation_weight * penalties.sum()
            metrics = {
                "target_entropy": torch.special.entr(targets).sum(1).mean(),
                "mean_entropy": torch.special.entr(prediction.detach()).sum(),
            }
        return self.regularized(StepOutput(loss, metrics), own_views, progress)
