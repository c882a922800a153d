"""SwAV: predict the cluster of one view from the other. Caron et al., NeurIPS 2020, arXiv 2006.09882."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup, drop_gradients
from sslsv.models.clustering import sinkhorn
from sslsv.models.fields import Positives, ShortSeconds, Temperature, TwoViewConfig
from sslsv.models.queue import Queue
from sslsv.models.two_view import ProjectedViews
from sslsv.ops.layers import full_precision
from sslsv.settings import section


def swav_loss(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of a view's prediction with another view's code, mean over pairs and rows.

    Scores (V, B, K) are cosines with prototypes, codes (2, B, K) those of the first two views. A pair is one
    of these two views and any other view. Equation 2, halved, for two views; equation 6 for more.
    """
    predictions = F.log_softmax(scores / temperature, dim=2)
    terms = -torch.einsum("cbk,vbk->cv", codes, predictions) / scores.shape[1]
    return (terms.sum() - terms.diagonal().sum()) / (terms.numel() - len(terms))


class SwAV(ProjectedViews):
    """Predict each view's cluster code from the other view; codes are balanced over batch and queue.

    Prototypes are normalised at each use, so the norms of their weights have no effect (weight norm), as in
    the code of the published speaker results. The authors' code overwrites the weights with unit rows before
    each step, so there the same learning rate turns prototypes by different angles.
    """

    @section
    class Config(TwoViewConfig):
        """Hold the settings of SwAV; the defaults are those published for VoxCeleb."""

        name: Literal["swav"] = "swav"
        num_short: Annotated[int, Field(ge=0, description="views that only predict (multi-crop)")] = 0
        short_seconds: ShortSeconds = 1.0
        num_prototypes: Annotated[int, Field(ge=2, description="number of learnt clusters")] = 6000
        temperature: Temperature = 0.1  # temperature of the predictions
        sinkhorn_epsilon: Annotated[float, Field(gt=0, description="lower values give sharper codes")] = 0.05
        sinkhorn_iterations: Annotated[int, Field(ge=1, description="iterations of balancing")] = 3
        queue_length: Annotated[int, Field(ge=0, description="past rows balanced with a batch")] = 3840
        queue_start_epoch: Annotated[int, Field(ge=1, description="first epoch that uses the queue")] = 15
        frozen_prototype_epochs: Annotated[int, Field(ge=0, description="first epochs, fixed prototypes")] = 1
        positives: Positives = None

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        short = ViewGroup("short", config.num_short, config.short_seconds)
        super().__init__(config, encoder, size, ViewGroup("views", 2, config.crop_seconds), short)
        dim = self.projection_dim
        self.prototypes = nn.Parameter(torch.empty(config.num_prototypes, dim).uniform_(-1, 1) / dim**0.5)
        self.queues = nn.ModuleList([Queue(config.queue_length, dim) for _ in range(2)])
        self._new_rows: Tensor | None = None
        self.add_positives(config.positives, size, dim)

    def project(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the two long views, and the projections of all views."""
        embeddings, projections = super().project(batch)
        return embeddings[:, :2], projections

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss; metrics are computed on the two long views.

        `accuracy` is the share of rows whose nearest prototype is that of the other view's code.
        `used_prototypes` is the number of prototypes that are nearest to any row, divided by the largest
        possible number; values near 0 mean collapse.
        """
        z = F.normalize(rows, dim=2).transpose(0, 1)  # (V, W*B, P)
        self._new_rows = z[:2].detach()
        z_b, sampling = self.sample_positives(z[1], batch, progress)
        z = torch.cat([torch.stack([z[0], z_b]), z[2:]])
        prototypes = F.normalize(full_precision(self.prototypes), dim=1)
        scores = z @ prototypes.T
        codes = torch.stack([self.codes(i, scores[i].detach(), prototypes, progress) for i in (0, 1)])
        loss = swav_loss(scores, codes, self.config.temperature)
        best = scores[:2].detach().argmax(2)
        used = loss.new_zeros(len(prototypes)).index_fill_(0, best.flatten(), 1.0).sum()
        used = used.detach() / min(len(prototypes), best.numel())
        accuracy = (best == codes.flip(0).argmax(2)).to(loss.dtype).mean()
        return StepOutput(loss, {"accuracy": accuracy, "used_prototypes": used} | sampling)

    @torch.no_grad()
    def codes(self, view: int, scores: Tensor, prototypes: Tensor, progress: Progress) -> Tensor:
        """Return the codes (B, K) of a view's rows, balanced with the queue from `queue_start_epoch` on."""
        config, rows = self.config, [scores]
        if progress.epoch >= config.queue_start_epoch:
            rows.append(self.queues[view].rows @ prototypes.T)  # type: ignore[operator]
        balanced = sinkhorn(torch.cat(rows), config.sinkhorn_epsilon, config.sinkhorn_iterations)
        return balanced[: len(scores)]

    def before_step(self, progress: Progress) -> None:
        """Freeze the prototypes in the first epochs, when embeddings would pull them together."""
        if progress.epoch < self.config.frozen_prototype_epochs:
            drop_gradients([self.prototypes])

    def after_step(self, progress: Progress) -> None:
        """Push this step's rows into the queues, in the order of the global batch."""
        if self._new_rows is not None:
            for rows, queue in zip(self._new_rows, self.queues, strict=True):
                queue.push(rows)  # type: ignore[operator]
            self._new_rows = None
