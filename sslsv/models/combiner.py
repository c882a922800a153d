"""Combine losses of embeddings with losses of their projections. Lepage and Dehak, arXiv 2207.05506."""

from typing import Literal

import torch
from torch import Tensor

from sslsv.models.base import StepOutput, by_sample
from sslsv.models.contrast import info_nce_loss, nt_xent
from sslsv.models.fields import Temperature, TwoViewConfig, Weight
from sslsv.models.terms import barlow_twins_loss, vicreg_loss
from sslsv.models.two_view import TwoViewModel
from sslsv.settings import refuse_if, section


class Combiner(TwoViewModel):
    """Minimise a weighted sum of losses, each of the embeddings or of the projections of two views."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of the combination; comments name the losses that use a setting of a term."""

        @section
        class Term:
            """Weigh one loss; with weight 1 and nothing else, it is the method of that name."""

            name: Literal["nt_xent", "info_nce", "vicreg", "barlow_twins"]
            weight: Weight = 1.0
            temperature: Temperature = 0.2  # nt_xent, info_nce
            invariance_weight: Weight = 1.0  # vicreg
            variance_weight: Weight = 1.0  # vicreg
            covariance_weight: Weight = 0.1  # vicreg
            redundancy_weight: Weight = 0.005  # barlow_twins
            scale: Weight = 0.025  # barlow_twins

        name: Literal["combiner"] = "combiner"
        embedding_terms: tuple[Term, ...] = (Term(name="info_nce"),)
        projection_terms: tuple[Term, ...] = (Term(name="vicreg"),)

        def __post_init__(self) -> None:
            for key in ("embedding_terms", "projection_terms"):
                names = [term.name for term in getattr(self, key)]
                refuse_if(len(set(names)) < len(names), f"{key} is {names}; each loss may be there once")
            refuse_if(
                not self.embedding_terms and not self.projection_terms,
                "projection_terms is empty, and so is embedding_terms; give one of them a loss",
            )
            refuse_if(
                bool(self.projector_dims) and not self.projection_terms,
                "projection_terms is empty, so nothing would train the projector; set projector_dims to []",
            )

    config: Config

    def project(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, 2, D); then, side by side, those and projections, if losses use them."""
        embeddings = self.encode(batch)
        parts = [by_sample(embeddings)] if self.config.embedding_terms else []
        if self.config.projection_terms:
            parts.append(by_sample(self.projector(embeddings)))
        return by_sample(embeddings), torch.cat(parts, 2)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum over rows of `project` (B, D + P); the metrics are the unweighted terms."""
        config = self.config
        width = self.embedding_dim if config.embedding_terms else 0
        parts = {
            "embedding": (config.embedding_terms, z_a[:, :width], z_b[:, :width]),
            "projection": (config.projection_terms, z_a[:, width:], z_b[:, width:]),
        }
        losses, metrics = [], {}
        for part, (terms, rows_a, rows_b) in parts.items():
            for term in terms:
                loss = term_loss(term, rows_a, rows_b)
                losses.append(term.weight * loss)
                metrics[f"{part}_{term.name}"] = loss.detach()
        return StepOutput(torch.stack(losses).sum(), metrics)


def term_loss(term: Combiner.Config.Term, z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the loss that a term names, without its weight, of rows (B, P), (B, P)."""
    if term.name == "nt_xent":
        return nt_xent(z_a, z_b, term.temperature)[0]
    if term.name == "info_nce":
        return info_nce_loss(z_a, z_b, term.temperature)
    if term.name == "vicreg":
        weights = term.invariance_weight, term.variance_weight, term.covariance_weight
        return vicreg_loss(z_a, z_b, *weights)[0]
    return barlow_twins_loss(z_a, z_b, term.redundancy_weight, term.scale)[0]
