"""Base classes of many methods: encoder and projector, losses of two views, teachers (moving averages)."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup, by_sample, by_view
from sslsv.ops import distributed
from sslsv.ops.layers import projector


class ProjectedViews(Model):
    """Hold an encoder and a projector, and a predictor if the settings have `predictor_dims`.

    `groups` default to one group of two views; groups with a count of 0 are dropped.
    """

    projector_ends_in_norm = False

    def __init__(self, config: Any, encoder: nn.Module, _: CorpusSize, *groups: ViewGroup) -> None:
        super().__init__(config)
        groups = groups or (ViewGroup("views", 2, config.crop_seconds),)
        self.views = tuple(group for group in groups if group.count)
        self.encoder = encoder
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        self.projector = projector(dim, config.projector_dims, self.projector_ends_in_norm)
        self.projection_dim = (dim, *config.projector_dims)[-1]
        if hasattr(config, "predictor_dims"):
            self.predictor = projector(self.projection_dim, config.predictor_dims)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of the global batch; autocast covers encoder and projector, not the loss."""
        embeddings, projections = self.project(batch)
        with torch.autocast(projections.device.type, enabled=False):
            rows = distributed.gather(projections, is_global_loss=True)
            output = self.loss_of(rows, batch, progress)
        return self.regularized(output, embeddings, progress)

    def project(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, V, D) and projections (B, V, P); the projector takes all views together."""
        embeddings, num_views = self.encode(batch), sum(group.count for group in self.views)
        return by_sample(embeddings, num_views), by_sample(self.projector(embeddings), num_views)

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of the projections (W*B, V, P) of the global batch; `batch` is this worker's."""
        raise NotImplementedError(f"{type(self).__name__} has neither `loss_of` nor `forward`.")


class TwoViewModel(ProjectedViews):
    """Pass two views through the same encoder and projector; subclasses implement the projections' loss.

    If its `Config` has a field `positives`, view b may come from other utterances, see `positives.py`.
    """

    def __init__(self, config: Any, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        self.add_positives(getattr(config, "positives", None), size, self.projection_dim)

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of both views; with SSPS, some rows of view b come from other utterances."""
        positives, sampling = self.sample_positives(rows[:, 1], batch, progress)
        # Stacking gives the memory layout, and so the order of summation, of a run without SSPS.
        z_a, z_b = torch.stack([rows[:, 0], positives], 1).unbind(1)
        loss, metrics = self.loss_at(z_a, z_b, progress)
        return StepOutput(loss, metrics | sampling)

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return `loss`. Override this instead if the loss draws random numbers or depends on `progress`."""
        return self.loss(z_a, z_b)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the loss of projections (B, P) of view a and of view b; rows i of both are from sample i."""
        raise NotImplementedError(f"{type(self).__name__} has neither `loss` nor `loss_at`.")


class TeacherModel(Model):
    """Keep a teacher: copies of some of the student's modules that follow them as moving averages.

    A subclass calls `add_teacher` after creating its modules. The teacher's weights are updated after each
    optimizer step. Its batch norms stay in training mode and keep their own running statistics, which are not
    averaged. The teacher is in `state_dict()`, but neither the optimizer nor DDP updates it.
    """

    teacher: nn.ModuleDict

    def add_teacher(self, *names: str) -> None:
        """Make `self.teacher[name]`, a frozen copy of the submodule `self.name`, for each name."""
        self.teacher = nn.ModuleDict({name: copy.deepcopy(getattr(self, name)) for name in names})
        self.teacher.requires_grad_(False)

    def start_from(self, encoder: nn.Module, model: Model | None) -> None:
        """Load a trained encoder's weights into student and teacher."""
        super().start_from(encoder, model)
        if "encoder" in self.teacher:
            self.teacher["encoder"].load_state_dict(encoder.state_dict())

    def teacher_momentum(self, progress: Progress) -> float:
        """Return the share of its weights that the teacher keeps in this step, from 0 to 1.

        By default it rises from the setting `teacher_momentum` to 1 along half a cosine, as in BYOL.
        """
        first, share = self.config.teacher_momentum, progress.fraction
        return float(1.0 - (1.0 - first) * (math.cos(math.pi * share) + 1.0) / 2.0)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Update the teacher: teacher = m * teacher + (1 - m) * student, for all parameters."""
        teachers: list[Tensor] = list(self.teacher.parameters())
        students: list[Tensor] = [p for name in self.teacher for p in getattr(self, name).parameters()]
        # Weights of 1 and 0 are exact: momentum 0 copies the student, momentum 1 does not change the teacher.
        torch._foreach_lerp_(teachers, students, 1.0 - self.teacher_momentum(progress))


class TwoViewTeacherModel(ProjectedViews, TeacherModel):
    """Keep a teacher of encoder and projector, which sees the same two views as the student."""

    def __init__(self, config: Any, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        self.add_teacher("encoder", "projector")

    def project_both(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's embeddings (2B, D) and projections (2B, P), and the teacher's (B, 2, P).

        Views are (B, 2, T); the 2B rows hold view a, then view b. No gradient reaches the teacher.
        """
        waveforms = by_view(views)
        embeddings = self.encoder(waveforms)
        with torch.no_grad():
            targets = self.teacher["projector"](self.teacher["encoder"](waveforms))
        return embeddings, self.projector(embeddings), by_sample(targets)
