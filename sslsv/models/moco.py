"""MoCo v2+: contrast with a queue of a teacher's past keys. He et al., arXiv 1911.05722 and 2003.04297."""

from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, by_sample
from sslsv.models.fields import LayerDims, MarginConfig, Momentum, Positives, Temperature, TwoViewConfig
from sslsv.models.margins import Margin
from sslsv.models.queue import Queue
from sslsv.models.two_view import TwoViewTeacherModel
from sslsv.ops import distributed
from sslsv.settings import section


def moco_logits(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return cosines / temperature, (B, 1 + Q): each query's own key first, then the queue's rows (Q, P).

    Queries and keys are (B, P); all rows must have unit norm.
    """
    positives = (queries * keys).sum(1, keepdim=True)
    return torch.cat([positives, queries @ queue.T], 1) / temperature


class MoCo(TwoViewTeacherModel):
    """Contrast each view's query with the other view's key and a queue of its past keys (momentum contrast).

    With `positives`, another utterance's key may replace a query's own key as the positive. Copies of that
    key in the queue remain negatives.
    """

    @section
    class Config(TwoViewConfig):
        """Hold the settings of MoCo; the defaults are those with the best published result on VoxCeleb."""

        name: Literal["moco"] = "moco"
        projector_dims: LayerDims = ()  # no projector is best for speakers
        temperature: Temperature = 0.03
        queue_length: Annotated[int, Field(ge=1, description="past keys per view, used as negatives")] = 32768
        teacher_momentum: Momentum = 0.999
        positives: Positives = None
        margin: MarginConfig = field(default_factory=MarginConfig)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        self.queues = nn.ModuleList([Queue(config.queue_length, self.projection_dim) for _ in range(2)])
        self.margin = Margin(config.margin, config.temperature, has_all_rows=False)
        self._new_keys: Tensor | None = None
        self.add_positives(config.positives, size, 2 * self.projection_dim)

    def teacher_momentum(self, progress: Progress) -> float:
        """Return the momentum, which is constant."""
        return self.config.teacher_momentum

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean loss of this worker's queries; the queues are the same on all workers."""
        embeddings, projections, targets = self.project_both(batch["views"])
        with torch.autocast(targets.device.type, enabled=False):
            anchors = by_sample(projections)
            queries = F.normalize(anchors, dim=2)
            self._new_keys = distributed.gather(F.normalize(targets, dim=2))
            keys, sampling = self.sample_positives(self._new_keys, batch, progress)
            keys = distributed.own_rows(keys)
            logits = [
                moco_logits(queries[:, i], keys[:, 1 - i], queue.rows, self.config.temperature)  # type: ignore[arg-type]
                for i, queue in ((0, self.queues[1]), (1, self.queues[0]))
            ]
            columns = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
            self.margin.observe(torch.cat([each[:, 0] for each in logits]), anchors.flatten(0, 1))
            with_margin = [
                self.margin(each, columns[:, None], anchors[:, view]) for view, each in enumerate(logits)
            ]
            loss = torch.stack([F.cross_entropy(each, columns) for each in with_margin]).mean()
            loss = loss + self.margin.penalty(anchors.flatten(0, 1))
            accuracy = torch.stack([(each.argmax(1) == 0).to(loss.dtype).mean() for each in logits]).mean()
        output = StepOutput(loss, {"accuracy": accuracy.detach()} | sampling | self.margin.metrics())
        return self.regularized(output, by_sample(embeddings), progress)

    def after_step(self, progress: Progress) -> None:
        """Push this step's keys into the queues, in global-batch order; update teacher and margin."""
        if self._new_keys is not None:  # `forward` can't push: the backward pass needs the old queue.
            for view, queue in enumerate(self.queues):
                queue.push(self._new_keys[:, view])  # type: ignore[operator]
            self._new_keys = None
        self.margin.after_step(progress)
        super().after_step(progress)
