"""Combine losses on embeddings with losses on their projections. Lepage and Dehak, arXiv 2207.05506."""

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
    """Minimise a weighted sum of losses, each on the embeddings or on the projections of two views."""

    @section
    class Config(TwoViewConfig):
        """Hold the settings of the combination; comments in `Term` name the losses that use a setting."""

        @section
        class Term:
            """Hold one loss and its weight; a single term with weight 1 is this loss alone."""

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
                refuse_if(len(set(names)) < len(names), f"{key} is {names}; each loss may occur only once")
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
        """Return embeddings (B, 2, D), and the input of the losses: embeddings, projections or both."""
        embeddings = self.encode(batch)
        parts = [by_sample(embeddings)] if self.config.embedding_terms else []
        if self.config.projection_terms:
            parts.append(by_sample(self.projector(embeddings)))
        return by_sample(embeddings), torch.cat(parts, 2)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the weighted sum of losses on the rows of `project`; metrics are the unweighted losses."""
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
    """Return the unweighted loss that a term names, for rows (B, P) of view a and of view b."""
    if term.name == "nt_xent":
        return nt_xent(z_a, z_b, term.temperature)[0]
    if term.name == "info_nce":
        return info_nce_loss(z_a, z_b, term.temperature)
    if term.name == "vicreg":
        weights = term.invariance_weight, term.variance_weight, term.covariance_weight
        return vicreg_loss(z_a, z_b, *weights)[0]
    return barlow_twins_loss(z_a, z_b, term.redundancy_weight, term.scale)[0]
