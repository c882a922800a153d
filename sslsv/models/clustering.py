"""Assign rows to prototypes: Sinkhorn's balanced codes (SwAV), spherical k-means (DeepCluster, SSPS)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.ops import distributed
from sslsv.ops.layers import full_precision

BLOCK_SCORES = 2**24  # Scores of one block of rows against all centroids: 64 MB in float32.


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes (N, K) of cosines (N, K) of rows with prototypes: shares of each row, which sum to 1.

    exp(scores / epsilon), scaled in turns so that all prototypes get the same share of the rows, then so that
    each row sums to 1; after a few iterations the first holds only nearly. The N rows must be those of all
    workers, and of a queue if there is one. Nothing overflows, however small epsilon is. Source: Cuturi,
    NeurIPS 2013 (arXiv 1306.0895), as in SwAV (arXiv 2006.09882), section 3.1.
    """
    codes = full_precision(scores) / epsilon
    # Logarithms are slow. After one iteration no sum of a column is below 1 / K (a row's sum was at most K
    # before it was scaled), so the others do without.
    for dim in (0, 1) if iterations else ():
        codes -= codes.logsumexp(dim, keepdim=True)
    codes.exp_()
    num_rows, num_prototypes = codes.shape
    of_rows, of_prototypes = codes.new_ones(num_rows), codes.new_ones(num_prototypes)
    for _ in range(iterations - 1):
        of_prototypes = num_rows / num_prototypes / (of_rows @ codes)
        of_rows = 1 / (codes @ of_prototypes)
    return codes.mul_(of_prototypes).mul_(of_rows[:, None])


class Clusters(NamedTuple):
    """Hold centroids (K, D), unit vectors, and the nearest one of each row, (N,) int64."""

    centroids: Tensor
    assignments: Tensor


@torch.no_grad()
def spherical_kmeans(
    rows: Tensor, num_clusters: int, iterations: int, generator: torch.Generator
) -> Clusters:
    """Cluster directions: rows (N, D), of any length and float type, into clusters of highest cosine.

    The first centroids are different rows, drawn by `generator` (CPU); each iteration assigns every row to
    the nearest centroid, then moves centroids to the normalised mean of their rows. A cluster without rows
    stays where it is. All workers must call this together with the same rows, on the device where those are;
    each takes its share of the blocks. Blocks are the same whatever the number of workers, and sums over rows
    are exact (integers in float64), so neither that number nor the order of a GPU's additions changes a bit.
    """
    if num_clusters > len(rows):
        raise ValueError(
            f"{len(rows)} rows cannot make {num_clusters} clusters: ask for at most {len(rows)}."
        )
    first = torch.randperm(len(rows), generator=generator)[:num_clusters].to(rows.device)
    centroids = F.normalize(full_precision(rows[first]), dim=1)
    for _ in range(iterations):
        _, sums = _assign(rows, centroids)
        is_empty = sums.square().sum(1, keepdim=True) == 0
        centroids = torch.where(is_empty, centroids, F.normalize(sums, dim=1).to(centroids.dtype))
    assignments, _ = _assign(rows, centroids)
    return Clusters(centroids, assignments)


def _assign(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid of each row, (N,), and the sums of the unit rows of each, (K, D)."""
    num_rows, num_clusters = len(rows), len(centroids)
    assignments = torch.zeros(num_rows, dtype=torch.int64, device=rows.device)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=rows.device)
    # Unit rows are rounded to multiples of 1 / scale, so that every partial sum fits a float64's 53 bits.
    scale = 2.0 ** (52 - math.ceil(math.log2(num_rows)))
    size = max(BLOCK_SCORES // num_clusters, 1)
    for start in range(0, num_rows, size)[distributed.rank() :: distributed.world_size()]:
        block = F.normalize(full_precision(rows[start : start + size]), dim=1)
        nearest = (block @ centroids.T).argmax(1)
        assignments[start : start + size] = nearest
        sums.index_add_(0, nearest, block.double().mul_(scale).round_())
    return distributed.all_reduce_sum(assignments), distributed.all_reduce_sum(sums)


@torch.no_grad()
def nearest_centroids(clusters: Clusters, count: int) -> Tensor:
    """Return the `count` nearest other centroids of each, nearest first, (K, count) int64; -1 for none.

    A cluster is never its own neighbour, and one without rows is nobody's.
    """
    centroids, num_clusters = clusters.centroids, len(clusters.centroids)
    is_empty = torch.bincount(clusters.assignments, minlength=num_clusters) == 0
    blocks = []
    size = max(BLOCK_SCORES // num_clusters, 1)
    for start in range(0, num_clusters, size):
        scores = (centroids[start : start + size] @ centroids.T).masked_fill_(is_empty, -torch.inf)
        scores.diagonal(start).fill_(-torch.inf)
        best = scores.topk(count, dim=1)
        blocks.append(best.indices.masked_fill(best.values == -torch.inf, -1))
    return torch.cat(blocks)


@torch.no_grad()
def half_unit_rows(rows: Tensor, device: torch.device) -> Tensor:
    """Return L2-normalised rows (N, D) as float16 on a device; rounding moves cosines by less than 0.001."""
    result = torch.empty(rows.shape, dtype=torch.float16, device=device)
    for start in range(0, len(rows), 2**16):
        result[start : start + 2**16] = F.normalize(rows[start : start + 2**16].to(device), dim=1)
    return result
