"""Assign rows to prototypes, with balanced codes (Sinkhorn) or with spherical k-means."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslsv.ops import distributed
from sslsv.ops.layers import full_precision

BLOCK_SCORES = 2**24  # Largest number of scores (rows x columns) in one block: 64 MB in float32.


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return balanced codes (N, K), soft assignments of N rows to K prototypes, from their cosines (N, K).

    exp(scores / epsilon) is scaled alternately by columns, so that all prototypes get the same share of the
    rows, and by rows, so that each row sums to 1. After few iterations, columns are only nearly balanced. The
    N rows must be those of all workers, and of the queue if there is one. Nothing overflows, however small
    epsilon is. Source: Cuturi, NeurIPS 2013 (arXiv 1306.0895), as in SwAV (arXiv 2006.09882), section 3.1.
    """
    codes = full_precision(scores) / epsilon
    # Only the first iteration uses logarithms, which are slow. It leaves all column sums at 1 / K or more (a
    # row's sum was at most K before scaling), so the other iterations can't underflow.
    for dim in (0, 1) if iterations else ():
        codes -= codes.logsumexp(dim, keepdim=True)
    codes.exp_()
    num_rows, num_prototypes = codes.shape
    row_factors, prototype_factors = codes.new_ones(num_rows), codes.new_ones(num_prototypes)
    for _ in range(iterations - 1):
        prototype_factors = num_rows / num_prototypes / (row_factors @ codes)
        row_factors = 1 / (codes @ prototype_factors)
    return codes.mul_(prototype_factors).mul_(row_factors[:, None])


class Clusters(NamedTuple):
    """Hold centroids (K, D), unit vectors, and the index of each row's nearest centroid, (N,) int64."""

    centroids: Tensor
    assignments: Tensor


@torch.no_grad()
def spherical_kmeans(
    rows: Tensor, num_clusters: int, iterations: int, generator: torch.Generator
) -> Clusters:
    """Cluster rows (N, D), of any norm and float type, into `num_clusters` clusters by cosine similarity.

    The first centroids are distinct rows, drawn by `generator` (CPU). Each iteration assigns every row to the
    nearest centroid, then moves each centroid to the normalised mean of its rows. A cluster without rows
    keeps its centroid. All workers must call this together with the same rows; each worker computes its share
    of the blocks, on the rows' device. Blocks do not depend on the number of workers, and sums over rows are
    exact (integers in float64). The result is therefore the same, bit for bit, for any number of workers and
    any order of additions on a GPU. Raises ValueError for fewer rows than clusters.
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
    """Return each row's nearest centroid, (N,), and each centroid's sum of scaled unit rows, (K, D)."""
    num_rows, num_clusters = len(rows), len(centroids)
    assignments = torch.zeros(num_rows, dtype=torch.int64, device=rows.device)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=rows.device)
    # Unit rows are rounded to multiples of 1 / scale, so that partial sums fit into the 53 bits of a float64.
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
    """Return the indices of each centroid's `count` nearest others, nearest first, (K, count) int64.

    A cluster is not its own neighbour, and empty clusters are no neighbours. Missing neighbours are -1.
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
    """Return L2-normalised rows (N, D) as float16 on a device; this changes cosines by less than 0.001."""
    result = torch.empty(rows.shape, dtype=torch.float16, device=device)
    for start in range(0, len(rows), 2**16):
        result[start : start + 2**16] = F.normalize(rows[start : start + 2**16].to(device), dim=1)
    return result
