"""What methods share in which a teacher takes part, a moving average of the network."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress
from sslsv.models.rows import by_sample, by_view
from sslsv.models.two_view import ProjectedViews


class TeacherModel(Model):
    """Keep a teacher: copies of some of the student's modules that follow them as moving averages.

    A subclass calls `add_teacher` once its modules are there. The teacher's weights move after each
    optimizer step; its batch norms stay in training mode with running statistics of their own, which are not
    averaged. It is in `state_dict()`, and neither the optimizer nor DDP sees it.
    """

    teacher: nn.ModuleDict

    def add_teacher(self, *names: str) -> None:
        """Make `self.teacher[name]`, a frozen copy of the submodule `self.name`, for each name."""
        self.teacher = nn.ModuleDict({name: copy.deepcopy(getattr(self, name)) for name in names})
        self.teacher.requires_grad_(False)

    def start_from(self, encoder: nn.Module, model: Model | None) -> None:
        """Take over a trained encoder's weights, for student and teacher."""
        super().start_from(encoder, model)
        if "encoder" in self.teacher:
            self.teacher["encoder"].load_state_dict(encoder.state_dict())

    def teacher_momentum(self, progress: Progress) -> float:
        """Return the share of its own weights that the teacher keeps in this step, 0 to 1.

        It rises from the settings' `teacher_momentum` to 1 by half a cosine (BYOL), unless a subclass has it
        otherwise.
        """
        first, share = self.config.teacher_momentum, progress.fraction
        return float(1.0 - (1.0 - first) * (math.cos(math.pi * share) + 1.0) / 2.0)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move the teacher: teacher = m * teacher + (1 - m) * student, for all parameters."""
        teachers: list[Tensor] = list(self.teacher.parameters())
        students: list[Tensor] = [p for name in self.teacher for p in getattr(self, name).parameters()]
        # A weight of 1 or 0 is exact: momentum 0 copies the student, momentum 1 leaves the teacher alone.
        torch._foreach_lerp_(teachers, students, 1.0 - self.teacher_momentum(progress))


class TwoViewTeacherModel(ProjectedViews, TeacherModel):
    """Keep a teacher of encoder and projector, which see two equal views as the student does."""

    def __init__(self, config: Any, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder)
        self.add_teacher("encoder", "projector")

    def project(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's embeddings (2B, D) and projections (2B, P), and the teacher's (B, 2, P).

        Views are (B, 2, T); rows of 2B hold all of view a before all of view b. No gradient reaches the
        teacher.
        """
        waveforms = by_view(views)
        embeddings = self.encoder(waveforms)
        with torch.no_grad():
            targets = self.teacher["projector"](self.teacher["encoder"](waveforms))
        return embeddings, self.projector(embeddings), by_sample(targets)
