"""SimCLR: find the other view of an utterance among all others. Chen et al., ICML 2020, arXiv 2002.05709."""

from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Progress, StepOutput, ViewGroup, by_view
from sslsv.models.contrast import accuracy, contrastive_loss, nt_xent, nt_xent_logits, view_logits
from sslsv.models.fields import LayerDims, MarginConfig, Positives, Temperature, TwoViewConfig
from sslsv.models.margins import Margin
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import refuse_if, section

_LONG, _SHORT = 2, 4  # number of views of an utterance in the form `multi_view`


class SimCLR(TwoViewModel):
    """Contrast each view with the other view of its utterance and with all utterances of the global batch."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of SimCLR; the defaults are those with the best published result on VoxCeleb.

        Forms: `symmetric` is NT-Xent, each view against its partner and all other views. `asymmetric` is
        InfoNCE, the first view against the second views. `multi_view` contrasts four short views (of
        `crop_seconds`) with two long views.
        """

        name: Literal["simclr"] = "simclr"
        long_crop_seconds: Annotated[float, Field(ge=0.1, description="multi_view: long view, seconds")] = 4.0
        projector_dims: LayerDims = ()  # no projector is best for speakers; for images: (2048, 2048, 256)
        temperature: Temperature = 0.03  # lower values give the hardest negatives more weight
        form: Literal["symmetric", "asymmetric", "multi_view"] = "symmetric"
        margin: MarginConfig = field(default_factory=MarginConfig)
        positives: Positives = None

        def __post_init__(self) -> None:
            refuse_if(
                self.form == "multi_view" and self.positives is not None,
                "form is 'multi_view' and positives are sampled, but only two views can have them; "
                "set positives to null, or form to 'symmetric'",
            )

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config, encoder, size)
        self.margin = Margin(config.margin, config.temperature)
        if config.form == "multi_view":
            self.views = (
                ViewGroup("long", _LONG, config.long_crop_seconds),
                ViewGroup("short", _SHORT, config.crop_seconds),
            )

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Contrast short views with long views (the first two), or pass two views to `loss`."""
        if self.config.form != "multi_view":
            return super().loss_of(rows, batch, progress)
        keys, anchors = rows[:, :_LONG], rows[:, _LONG:]
        return self._contrast(*view_logits(anchors, keys, self.config.temperature), anchors)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return NT-Xent or InfoNCE; `accuracy` is the share of anchors whose positive is nearest."""
        if self.config.form == "asymmetric":
            logits = view_logits(z_a[:, None], z_b[:, None], self.config.temperature)
            return self._contrast(*logits, z_a[:, None])
        if not self.margin.is_active:
            loss, share = nt_xent(z_a, z_b, self.config.temperature)
            return StepOutput(loss, {"accuracy": share})
        logits = nt_xent_logits(z_a, z_b, self.config.temperature)
        return self._contrast(*logits, torch.stack([z_a, z_b], 1))

    def after_step(self, progress: Progress) -> None:
        """Update the margin and its running averages."""
        self.margin.after_step(progress)

    def _contrast(self, logits: Tensor, positives: Tensor, anchors: Tensor) -> StepOutput:
        """Return the loss of logits whose rows belong to the projections `anchors` (B, views, P), by view."""
        rows = by_view(anchors)
        self.margin.observe(logits.gather(1, positives).flatten(), rows)
        loss = contrastive_loss(self.margin(logits, positives, rows), positives)
        metrics = {"accuracy": accuracy(logits, positives)} | self.margin.metrics()
        return StepOutput(loss + self.margin.penalty(rows), metrics)
