"""Terms on the embeddings of the global batch, which any method may have beside its loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslsv.models.terms import koleo, sigreg, variance_and_covariance

NUM_DIRECTIONS = 1024  # of sigreg, as in its paper


def regularizer_terms(names: Sequence[str], views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the terms of embeddings (V, N, D) by name, unweighted, each the mean over the V views.

    "koleo" spreads the nearest neighbours; "variance" and "covariance" are VICReg's terms; "sigreg" is
    LeJEPA's distance to a standard normal distribution, whose directions the generator draws. All but the
    first depend on the scale of the embeddings, which are not normalised.
    """
    terms: dict[str, Tensor] = {}
    if "koleo" in names:
        terms["koleo"] = torch.stack([koleo(rows) for rows in views]).mean()
    if "variance" in names or "covariance" in names:
        pairs = [torch.stack(variance_and_covariance(rows)) for rows in views]
        terms["variance"], terms["covariance"] = torch.stack(pairs).mean(0).unbind()
    if "sigreg" in names:
        terms["sigreg"] = sigreg(views, generator, NUM_DIRECTIONS)
    return {name: terms[name] for name in names}
