"""Health of embeddings, without labels: have they collapsed, how much of the space do they use?

Rows are embeddings (N, D), in float32 or float64, of different utterances unless said otherwise; views are
embeddings (N, Q, D) of Q views of each of N utterances.
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
    """Return RankMe, exp of the entropy of the singular values over their sum, between 1 and min(N, D).

    Rows are taken as they are, neither centred nor normalised. Compare runs of one method only.
    Source: Garrido et al., ICML 2023 (arXiv 2210.02885), equations 1 and 2, which add eps to each share.
    """
    # All singular values are computed: N * D^2 operations, once for each validation.
    return _exp_of_entropy(torch.linalg.svdvals(embeddings), eps)


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """Return LiDAR: how many directions tell utterances (the classes) apart, beyond their views' differences.

    exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2 over their sum, S_b the covariance of the
    utterances' means, S_w that of the views around them: between 1 and min(N - 1, D), so compare equal N
    only. Noise that is alike in all directions scores high too. Views are not normalised.
    Source: Thilak et al., ICLR 2024 (arXiv 2312.04000), section 4. There S_w gets delta * I; here delta is a
    share of the mean variance per dimension, so that the scale of embeddings is irrelevant.
    """
    views = views - views[0, 0]  # changes nothing, but makes equal rows exactly 0 where means would round
    means = views.mean(1)
    offsets = means - means[0]
    offsets, around = offsets - offsets.mean(0), (views - means[:, None]).flatten(0, 1)
    between, within = offsets.T @ offsets / len(offsets), around.T @ around / len(around)
    variance = (between + within).diagonal().mean().clamp_min(torch.finfo(views.dtype).tiny)
    within.diagonal().add_(delta * variance)
    # L^-1 S_b L^-T of the Cholesky factor has the same eigenvalues as the symmetric form, and costs less.
    factor = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    ratio = torch.linalg.solve_triangular(factor, half.T, upper=False)
    return _exp_of_entropy(torch.linalg.eigvalsh(ratio).clamp_min(0), eps)


def alignment(embeddings_a: Tensor, embeddings_b: Tensor) -> Tensor:
    """Return the mean squared distance of unit rows i of two views: 0 is best, 2 unrelated, 4 opposite.

    Source: Wang and Isola, ICML 2020 (arXiv 2005.10242), section 4.1, alpha = 2.
    """
    return (F.normalize(embeddings_a, dim=1) - F.normalize(embeddings_b, dim=1)).square().sum(1).mean()


def uniformity(embeddings: Tensor, t: float = 2.0) -> Tensor:
    """Return the log of the mean of exp(-t |x - y|^2) over pairs of unit rows: lower is more spread out.

    0 when collapsed; needs two rows, and memory for N * N distances. Source: Wang and Isola, ICML 2020
    (arXiv 2005.10242), section 4.1.
    """
    count, rows = len(embeddings), F.normalize(embeddings, dim=1)
    exponents = (2 * t * (rows @ rows.T - 1)).fill_diagonal_(-torch.inf)
    return torch.logsumexp(exponents.flatten(), 0) - math.log(count * (count - 1))


def pseudo_trial_eer(views: Tensor) -> float:
    """Return the EER in percent of trials made without labels, scored by cosine: 0 is best, 50 chance.

    Targets are all pairs of views of one utterance, which therefore should not overlap and be in different
    rooms and noises, else they measure the channel; nontargets are the first view of one utterance and the
    second of another. Where speakers have several utterances a few nontargets are none.
    """
    rows = F.normalize(views, dim=2)
    pairs = itertools.combinations(range(views.shape[1]), 2)
    targets = torch.cat([(rows[:, a] * rows[:, b]).sum(1) for a, b in pairs])
    is_other = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    nontargets = (rows[:, 0] @ rows[:, 1].T)[is_other]
    # Rounded, equal cosines are ties, in whatever order their products were summed: collapsed must be 50.
    scores = torch.cat([targets, nontargets]).float().cpu().numpy()
    return ErrorCurve.of(scores, np.arange(len(scores)) < len(targets)).eer()


def label_free_report(views: Tensor) -> dict[str, float]:
    """Measure an encoder without labels by views (N, Q, D), N and Q of 2 or more, in float64; values by name.

    `rankme` (the effective rank) and `feature_std` take all views as rows, `uniformity` the first ones;
    `alignment` is the mean over all pairs of views.
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
    """Measure the spread of embeddings (N, D), values by name.

    Pairwise and spectral values use at most `max_rows` rows, evenly spaced, so that any N is affordable.
    """
    some = embeddings[:: -(-len(embeddings) // max_rows)]
    return {
        "feature_std": feature_std(embeddings).item(),
        "effective_rank": effective_rank(some).item(),
        "uniformity": uniformity(some).item(),
    }


def _exp_of_entropy(values: Tensor, eps: float) -> Tensor:
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return torch.exp(-(shares * shares.log()).sum())
