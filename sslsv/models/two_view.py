"""What methods with two equal views share: encoder and projector, and losses of all projections."""

from typing import Any

import torch
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup
from sslsv.models.rows import by_sample, by_view
from sslsv.ops import distributed
from sslsv.ops.layers import projector


class ProjectedViews(Model):
    """Hold an encoder and a projector, and a predictor where the settings have `predictor_dims`.

    Without view groups there are two equal views; groups of no view are left out.
    """

    projector_ends_in_norm = False

    def __init__(self, config: Any, encoder: nn.Module, *groups: ViewGroup) -> None:
        super().__init__()
        self.config: Any = config  # subclasses may state the type, `config: Config`
        groups = groups or (ViewGroup("views", 2, config.crop_seconds),)
        self.views = tuple(group for group in groups if group.count)
        self.encoder = encoder
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        self.projector = projector(dim, config.projector_dims, self.projector_ends_in_norm)
        self.projection_dim = (dim, *config.projector_dims)[-1]
        if hasattr(config, "predictor_dims"):
            self.predictor = projector(self.projection_dim, config.predictor_dims)


class TwoViewModel(ProjectedViews):
    """Pass two views alike through an encoder and a projector; subclasses give the loss of projections.

    A `Config` with a field `positives` lets view b come from other utterances, see `positives.py`.
    """

    def __init__(self, config: Any, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder)
        self.add_positives(getattr(config, "positives", None), size, self.projection_dim)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of all workers' batches; autocast covers encoder and projector, not the loss."""
        embeddings, projections = self.project(batch["views"])
        with torch.autocast(projections.device.type, enabled=False):
            pairs = distributed.gather(projections, loss_is_whole=True)  # (W*B, 2, P)
            positives, sampling = self.sample_positives(pairs[:, 1], batch, progress)
            # Restacked, the memory layout, and thus the order of sums, is the same as without SSPS.
            z_a, z_b = torch.stack([pairs[:, 0], positives], 1).unbind(1)
            loss, metrics = self.loss_at(z_a, z_b, progress)
        return self.regularized(StepOutput(loss, metrics | sampling), embeddings, progress)

    def project(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings and projections of this worker's views, (B, 2, D) and (B, 2, P), of (B, 2, T)."""
        embeddings = self.encoder(by_view(views))
        return by_sample(embeddings), by_sample(self.projector(embeddings))

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return `loss`; a method whose loss draws, or changes over the run, overrides this instead."""
        return self.loss(z_a, z_b)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the loss of projections (B, P) of view a and of view b, row i of both from sample i."""
        raise NotImplementedError(f"{type(self).__name__} has neither `loss` nor `loss_at`.")
