"""How healthy embeddings are, without labels: have they collapsed, how much of the space do they use?

Rows are embeddings (N, D), in float32 or float64, of different utterances unless said otherwise. Results are
0-d tensors on the rows' device: nothing waits for an accelerator until a value is read.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(embeddings: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(D).

    About 1 when directions are isotropic, 0 when all rows point the same way. Source: Chen and He, CVPR 2021
    (SimSiam, arXiv 2011.10566), section 4.1. The deviation is the biased one, so one row gives 0.
    """
    rows = F.normalize(embeddings, dim=1)
    std: Tensor = rows.std(0, correction=0).mean()
    return std * math.sqrt(embeddings.shape[1])


def mean_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows: 0 when spread out, 1 when collapsed; needs two rows."""
    count = _at_least_two(embeddings)
    rows = F.normalize(embeddings, dim=1)
    # The squared norm of the sum holds every ordered pair, and each row with itself.
    return (rows.sum(0).square().sum() - rows.square().sum()) / (count * (count - 1))


def effective_rank(embeddings: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe: exp of the entropy of the singular values over their sum, between 1 and min(N, D).

    Of the rows as they are, neither centred nor normalised. Compare runs of one method only.
    Source: Garrido et al., ICML 2023 (arXiv 2210.02885), equations 1 and 2, which add eps to each share.
    """
    # A complete decomposition of the thin side costs D^3, once per validation.
    singular_values = torch.linalg.svdvals(embeddings)
    shares = singular_values / singular_values.sum().clamp_min(torch.finfo(embeddings.dtype).tiny) + eps
    return torch.exp(-(shares * shares.log()).sum())


def alignment(embeddings_a: Tensor, embeddings_b: Tensor) -> Tensor:
    """Mean squared distance of L2-normalised rows i of two views: 0 is best, 2 unrelated, 4 opposite.

    Source: Wang and Isola, ICML 2020 (arXiv 2005.10242), section 4.1, alpha = 2.
    """
    return (F.normalize(embeddings_a, dim=1) - F.normalize(embeddings_b, dim=1)).square().sum(1).mean()


def uniformity(embeddings: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean of exp(-t |x - y|^2) over pairs of L2-normalised rows: lower is more spread out.

    0 when collapsed; needs two rows, and memory for N * N distances. Source: Wang and Isola, ICML 2020
    (arXiv 2005.10242), section 4.1.
    """
    count = _at_least_two(embeddings)
    rows = F.normalize(embeddings, dim=1)
    exponents = (2 * t * (rows @ rows.T - 1)).fill_diagonal_(-torch.inf)
    pairs = torch.tensor(float(count * (count - 1)), dtype=rows.dtype, device=rows.device)
    return torch.logsumexp(exponents.flatten(), 0) - pairs.log()


def collapse_report(
    embeddings: Tensor, other_view: Tensor | None = None, max_rows: int = 4096
) -> dict[str, float]:
    """All of the above as numbers, by name; `alignment` only with another view of the same utterances.

    Pairwise and spectral values use at most `max_rows` rows, evenly spaced: (N, D) of any size is affordable.
    """
    _at_least_two(embeddings)
    stride = -(-embeddings.shape[0] // max_rows)
    some = embeddings[::stride]
    values = {
        "feature_std": feature_std(embeddings),
        "mean_cosine": mean_cosine(embeddings),
        "effective_rank": effective_rank(some),
        "uniformity": uniformity(some),
    }
    if other_view is not None:
        values["alignment"] = alignment(embeddings, other_view)
    return {name: float(value) for name, value in values.items()}


def _at_least_two(embeddings: Tensor) -> int:
    if embeddings.ndim != 2 or embeddings.shape[0] < 2:
        raise ValueError(
            f"Embeddings of shape {tuple(embeddings.shape)} cannot be compared with each other: "
            "give a matrix (N, D) of at least 2 rows."
        )
    return embeddings.shape[0]
