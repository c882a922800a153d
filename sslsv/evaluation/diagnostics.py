"""Measure the health of embeddings without labels: collapse, and how much of the space they use.

`embeddings` are (N, D), float32 or float64, one row per utterance unless a function says otherwise. `views`
are the embeddings (N, Q, D) of Q views of each of N utterances.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.evaluation.metrics import ErrorCurve
from sslsv.models.terms import feature_std


def effective_rank(embeddings: Tensor, eps: float = 1e-7) -> Tensor:
    """Return RankMe: exp of the entropy of the singular values divided by their sum, from 1 to min(N, D).

    Rows are neither centred nor normalised. Compare values between runs of one method only.
    Source: Garrido et al., ICML 2023 (arXiv 2210.02885), equations 1 and 2, which add eps to each share.
    """
    # Computing all singular values takes N * D^2 operations, once per validation.
    return _exp_of_entropy(torch.linalg.svdvals(embeddings), eps)


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """Return LiDAR: the effective rank of the differences between utterances relative to those of views.

    It is exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2 divided by their sum. S_b is the
    covariance of the utterance means (an utterance is a class), S_w that of the views around these means.
    Values are from 1 to min(N - 1, D), so compare them for equal N only. Noise that is equal in all
    directions also scores high. Views are not normalised.
    Source: Thilak et al., ICLR 2024 (arXiv 2312.04000), section 4. The paper adds delta * I to S_w. Here
    delta is a share of the mean variance per dimension, so that the scale of embeddings does not matter.
    """
    views = views - views[0, 0]  # The result is the same, but equal rows give exactly 0 despite rounding.
    means = views.mean(1)
    offsets = means - means[0]
    offsets, deviations = offsets - offsets.mean(0), (views - means[:, None]).flatten(0, 1)
    between, within = offsets.T @ offsets / len(offsets), deviations.T @ deviations / len(deviations)
    variance = (between + within).diagonal().mean().clamp_min(torch.finfo(views.dtype).tiny)
    within.diagonal().add_(delta * variance)
    # With the Cholesky factor L, L^-1 S_b L^-T has the same eigenvalues as the symmetric form, at less cost.
    factor = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    ratio = torch.linalg.solve_triangular(factor, half.T, upper=False)
    return _exp_of_entropy(torch.linalg.eigvalsh(ratio).clamp_min(0), eps)


def alignment(embeddings_a: Tensor, embeddings_b: Tensor) -> Tensor:
    """Return the mean squared distance of unit-length rows i of two views: 0 best, 2 unrelated, 4 opposite.

    Source: Wang and Isola, ICML 2020 (arXiv 2005.10242), section 4.1, alpha = 2.
    """
    return (F.normalize(embeddings_a, dim=1) - F.normalize(embeddings_b, dim=1)).square().sum(1).mean()


def uniformity(embeddings: Tensor, t: float = 2.0) -> Tensor:
    """Return the log of the mean of exp(-t |x - y|^2) over pairs of unit-length rows.

    Lower is more spread out, 0 is a collapse. It needs two rows, and memory for N * N distances.
    Source: Wang and Isola, ICML 2020 (arXiv 2005.10242), section 4.1.
    """
    count, rows = len(embeddings), F.normalize(embeddings, dim=1)
    exponents = (2 * t * (rows @ rows.T - 1)).fill_diagonal_(-torch.inf)
    return torch.logsumexp(exponents.flatten(), 0) - math.log(count * (count - 1))


def pseudo_trial_eer(views: Tensor) -> float:
    """Return the EER in percent of trials made without labels, scored by cosine: 0 is best, 50 is chance.

    Target trials are all pairs of views of one utterance. These views should not overlap and should have
    different rooms and noises; otherwise the EER measures the channel. Nontarget trials pair the first view
    of an utterance with the second view of another; if speakers have several utterances, a few of these
    trials compare a speaker with itself.
    """
    rows = F.normalize(views, dim=2)
    pairs = itertools.combinations(range(views.shape[1]), 2)
    targets = torch.cat([(rows[:, a] * rows[:, b]).sum(1) for a, b in pairs])
    is_other = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    nontargets = (rows[:, 0] @ rows[:, 1].T)[is_other]
    # Rounding to float32 hides the summation order, so equal cosines tie and a collapsed model gets 50 %.
    scores = torch.cat([targets, nontargets]).float().cpu().numpy()
    return ErrorCurve.of(scores, np.arange(len(scores)) < len(targets)).eer()


def label_free_report(views: Tensor) -> dict[str, float]:
    """Return label-free measures by name, computed in float64 from views (N, Q, D) with N and Q of 2 or more.

    `rankme` (the effective rank) and `feature_std` use all views as rows, `uniformity` only the first view of
    each utterance. `alignment` is the mean over all pairs of views.
    """
    views = views.double()
    rows, pairs = views.flatten(0, 1), itertools.combinations(views.unbind(1), 2)
    return {
        "rankme": effective_rank(rows).item(),
        "lidar": lidar(views).item(),
        "alignment": torch.stack([alignment(a, b) for a, b in pairs]).mean().item(),
        "uniformity": uniformity(views[:, 0]).item(),
        "feature_std": feature_std(rows).item(),
        "pseudo_eer": pseudo_trial_eer(views),
    }


def collapse_report(embeddings: Tensor, max_rows: int = 4096) -> dict[str, float]:
    """Return measures of the spread of embeddings (N, D), by name.

    `effective_rank` and `uniformity` use at most `max_rows` evenly spaced rows, which limits their cost.
    """
    sample = embeddings[:: -(-len(embeddings) // max_rows)]
    return {
        "feature_std": feature_std(embeddings).item(),
        "effective_rank": effective_rank(sample).item(),
        "uniformity": uniformity(sample).item(),
    }


def _exp_of_entropy(values: Tensor, eps: float) -> Tensor:
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return torch.exp(-(shares * shares.log()).sum())
