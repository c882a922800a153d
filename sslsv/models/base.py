"""What the trainer asks of a self-supervised model, and what all models of two equal views share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sslsv.evaluation.diagnostics import feature_std
from sslsv.ops import distributed
from sslsv.ops.layers import IterNorm, full_precision, projector


@dataclass(frozen=True)
class Progress:
    """How far a run is, in optimiser steps and epochs; both count from 0."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int

    @property
    def fraction(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return self.step / max(self.total_steps, 1)


class StepOutput(NamedTuple):
    """Scalar loss to minimise, and detached scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor]


class ViewGroup(NamedTuple):
    """Views of one length: `batch[name]` is (B, count, samples), of `seconds` each; clean: not augmented."""

    name: str
    count: int  # type: ignore[assignment]  # hides tuple.count
    seconds: float
    is_clean: bool = False


class Model(nn.Module, ABC):
    """A training objective around an encoder: subclasses give `forward` and state its `view_groups`.

    State that lasts between steps (queues, teachers, centres) must be buffers and modules, so that
    `state_dict()` is all a checkpoint needs.
    """

    encoder: nn.Module
    view_groups: tuple[ViewGroup, ...]

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Loss and metrics of one batch; in a process group, of the batches of all ranks together.

        The batch holds the int16 views of each group, (B, count, samples), and `sample`, the int64 indices
        (B,).
        """

    def before_step(self, progress: Progress) -> None:
        """Called when gradients are final (unscaled, before clipping), just before the optimiser's step."""

    def after_step(self, progress: Progress) -> None:
        """Called just after the optimiser's step, e.g. to move a teacher."""

    def start_epoch(self, progress: Progress) -> None:
        """Called before the first step of each epoch."""

    def embed(self, waveforms: Tensor) -> Tensor:
        """Embeddings for verification: waveforms (B, T), int16 or float -> (B, D), not normalised."""
        return self.encoder(waveforms)  # type: ignore[no-any-return]


class TwoViewConfig(Protocol):
    """The settings that every model of two equal views has."""

    @property
    def crop_seconds(self) -> float: ...  # noqa: D102

    @property
    def projector_dims(self) -> tuple[int, ...]: ...  # noqa: D102


class TwoViewModel(Model):
    """One encoder and one projector see two views alike; subclasses give the loss of the projections."""

    def __init__(self, config: TwoViewConfig, encoder: nn.Module) -> None:
        super().__init__()
        self.config: Any = config  # subclasses may state the type, `config: Config`
        self.encoder = encoder
        self.projector = projector(int(encoder.embedding_dim), config.projector_dims)  # type: ignore[arg-type]
        self.view_groups = (ViewGroup("views", 2, config.crop_seconds),)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Loss of all ranks' batches; the caller's autocast covers encoder and projector, not the loss."""
        return self.compare(*self.project(batch["views"]))

    def project(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """What a worker, or a chunk of its share, does alone: views (B, 2, T) -> (B, 2, D), (B, 2, P).

        Embeddings, and their projections by the layers before `whitening`; float32 or float64.
        """
        # One pass over both views, (2B, T): faster than two, and batch norm sees both alike.
        embeddings = self.encoder(views.transpose(0, 1).flatten(0, 1))
        projections = self.projector[: self._num_local_layers](embeddings)
        return _paired(embeddings.detach()), _paired(projections)

    def compare(self, embeddings: Tensor, projections: Tensor) -> StepOutput:
        """Loss and metrics of what `project` gave for this worker's whole share, with all other workers'."""
        with torch.autocast(projections.device.type, enabled=False):
            rows = self.whitening(projections.transpose(0, 1).flatten(0, 1))  # (2B, P)
            z_a, z_b = distributed.gather(_paired(rows)).unbind(1)  # (W*B, P) each
            loss, metrics = self.loss(z_a, z_b)
            metrics["batch_feature_std"] = feature_std(embeddings.transpose(0, 1).flatten(0, 1))
        return StepOutput(loss, metrics)

    @property
    def whitening(self) -> nn.Sequential:
        """The projector's layers from the first IterNorm on: their batch is always that of all workers."""
        return self.projector[self._num_local_layers :]

    @property
    def _num_local_layers(self) -> int:
        layers = list(self.projector)
        return next((i for i, layer in enumerate(layers) if isinstance(layer, IterNorm)), len(layers))

    @abstractmethod
    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Loss of the projections (B, P) of view a and of view b, row i of both from sample i."""


def _paired(rows: Tensor) -> Tensor:
    """(2B, D), all of view a before all of view b -> (B, 2, D)."""
    return torch.stack(full_precision(rows).chunk(2), 1)


def check_two_view_settings(crop_seconds: float, projector_dims: tuple[int, ...]) -> None:
    """Raise ValueError, in a sentence, for values that no model of two views can use."""
    if crop_seconds < 0.1:
        raise ValueError(f"crop_seconds is {crop_seconds}; a crop needs at least 0.1 seconds, e.g. 2.0.")
    if any(dim < 1 for dim in projector_dims):
        raise ValueError(
            f"projector_dims is {projector_dims}; every layer needs at least 1 unit. "
            "For no projector, give an empty list."
        )
