"""Cluster embeddings of utterances into pseudo-speakers, and measure the quality of the clusters.

Rows (N, D) are unit vectors, preferably float16: 1.09 million rows of 512 values take 1.1 GB. Scores are
computed in blocks of `BLOCK_SCORES`, which take a few hundred MB in addition to the rows. Ward's method needs
more (`pseudo_labels.MAX_WARD_ROWS`).
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

from sslsv.models.clustering import BLOCK_SCORES, spherical_kmeans
from sslsv.tasks.pseudo_labels import ClusteringConfig

Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]

ROWS_AT_ONCE = 1024  # rows whose neighbours are searched together, among 16,384 rows at a time


def cluster(rows: Tensor, config: ClusteringConfig, seed: int) -> tuple[Labels, dict[int, float]]:
    """Cluster rows as configured; of several candidates, take the one with the highest silhouette.

    Returns the cluster of each row (N,), -1 for none (see `drop_small_clusters`), and the silhouette for
    each number of clusters found (it may be smaller than requested). The same rows and seed give the same
    clusters. Raises ValueError if there are too few rows, or if no cluster is large enough.
    """
    best: tuple[float, Labels] | None = None
    silhouettes: dict[int, float] = {}
    for labels in candidates(rows, config, seed):
        count = int(labels.max()) + 1
        value = silhouette(rows, labels)
        silhouettes[count] = max(value, silhouettes.get(count, -1.0))
        if best is None or value > best[0]:
            best = value, labels
    assert best is not None
    return drop_small_clusters(best[1], config.min_members), silhouettes


def candidates(rows: Tensor, config: ClusteringConfig, seed: int) -> Iterator[Labels]:
    """Yield the candidate clusterings (N,)."""
    if config.name == "kmeans":
        for count in config.num_clusters:
            generator = torch.Generator().manual_seed(seed)
            labels = spherical_kmeans(rows, count, config.iterations, generator).assignments
            yield renumbered(labels.cpu().numpy())
    elif config.name == "kmeans_agglomerative":
        yield from merged(rows, config, seed)
    else:
        yield infomap(len(rows), *nearest_rows(rows, config.num_neighbors), seed % 2**31)


def merged(rows: Tensor, config: ClusteringConfig, seed: int) -> Iterator[Labels]:
    """Yield Ward's clusters of k-means centroids, or of the rows themselves if there are few enough."""
    members: Labels = np.arange(len(rows))
    centroids = rows
    if len(rows) > config.num_centroids:
        generator = torch.Generator().manual_seed(seed)
        centroids, assignments = spherical_kmeans(rows, config.num_centroids, config.iterations, generator)
        used, members = np.unique(assignments.cpu().numpy(), return_inverse=True)
        centroids = centroids[torch.from_numpy(used).to(centroids.device)]
    tree = linkage(centroids.cpu().double().numpy(), "ward")
    for count in config.num_clusters:
        yield renumbered(fcluster(tree, count, "maxclust")[members])


def nearest_rows(rows: Tensor, count: int) -> tuple[Labels, Labels, Weights]:
    """Return the edges of each row to its `count` nearest rows: rows (E,), neighbours (E,), cosines (E,).

    Edges with a cosine of 0 or less are left out. Cost: N * N * D operations.
    """
    neighbours, cosines = [], []
    count = min(count, len(rows) - 1)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE].float()
        values = block.new_empty(len(block), 0)
        indices = torch.empty_like(values, dtype=torch.int64)
        for first in range(0, len(rows), BLOCK_SCORES // ROWS_AT_ONCE):
            part = rows[first : first + BLOCK_SCORES // ROWS_AT_ONCE].float()
            scores = block @ part.T
            scores.diagonal(start - first).fill_(-torch.inf)  # exclude each row itself
            part_indices = torch.arange(first, first + len(part), device=rows.device).expand(len(block), -1)
            best = torch.cat([values, scores], 1).topk(min(count, values.shape[1] + len(part)), dim=1)
            values, indices = best.values, torch.cat([indices, part_indices], 1).gather(1, best.indices)
        neighbours.append(indices.int().cpu())
        cosines.append(values.cpu())
    weights = torch.cat(cosines).flatten().numpy()
    sources, targets = np.repeat(np.arange(len(rows)), count), torch.cat(neighbours).flatten().numpy()
    is_positive = weights > 0
    return sources[is_positive], targets[is_positive].astype(np.int64), weights[is_positive]


def infomap(count: int, sources: Labels, targets: Labels, weights: Weights, seed: int) -> Labels:
    """Return the modules of a graph by the map equation (Rosvall and Bergstrom, 2008), on one level."""
    package = importlib.import_module("infomap")
    network = package.Infomap(two_level=True, silent=True, seed=seed + 1)
    network.add_links(list(zip(sources.tolist(), targets.tolist(), weights.tolist(), strict=True)))
    network.run()
    modules = dict(network.modules)
    # A row without edges is a cluster of its own. The modules have numbers from 1 to at most len(modules).
    return renumbered(np.array([modules.get(i, len(modules) + 1 + i) for i in range(count)]))


def check_packages(config: ClusteringConfig) -> None:
    """Raise ValueError if `infomap` is chosen and its package is missing."""
    if config.name == "infomap" and importlib.util.find_spec("infomap") is None:
        raise ValueError(
            "clustering.name is 'infomap', which needs a package that is not installed: `pip install "
            "'infomap<3'`, or choose kmeans_agglomerative"
        )


def renumbered(labels: npt.NDArray[Any]) -> Labels:
    """Return the labels renumbered as 0, 1 ... in ascending order; -1 stays."""
    values, indices = np.unique(labels, return_inverse=True)
    return (indices - int(values[0] < 0)).astype(np.int64)


def silhouette(rows: Tensor, labels: Labels) -> float:
    """Return the mean silhouette of rows against centroids, -1 to 1, higher is better; needs no labels.

    The silhouette of a row is (b - a) / max(a, b), where a is the cosine distance to its own centroid and b
    the distance to the nearest other centroid; it is 0 for a row alone in its cluster. The own centroid
    leaves out the row itself, because more clusters would otherwise always be better. Takes one pass over
    N * K scores (Rousseeuw, 1987, with centroids instead of members).
    """
    clusters = torch.from_numpy(labels).to(rows.device)
    counts = torch.bincount(clusters)
    sums = torch.zeros(len(counts), rows.shape[1], device=rows.device)
    for start in range(0, len(rows), 2**16):
        sums.index_add_(0, clusters[start : start + 2**16], rows[start : start + 2**16].float())
    centroids = F.normalize(sums, dim=1)
    total, size = 0.0, max(BLOCK_SCORES // len(centroids), 1)
    for start in range(0, len(rows), size):
        block, own = rows[start : start + size].float(), clusters[start : start + size]
        rest = sums[own] - block
        own_cosine = F.cosine_similarity(block, rest, dim=1)
        other_cosine = (block @ centroids.T).scatter_(1, own[:, None], -2.0).amax(1)
        a, b = 1 - own_cosine, 1 - other_cosine
        values = (b - a) / torch.maximum(a, b).clamp_min(1e-6)
        total += float(torch.where(counts[own] > 1, values, 0.0).double().sum())
    return total / len(rows)


def drop_small_clusters(labels: Labels, min_members: int) -> Labels:
    """Give rows of small clusters the label -1, and renumber the rest; raises ValueError if none is left."""
    is_large = np.bincount(labels) >= min_members
    if not is_large.any():
        raise ValueError(
            f"none of the {len(is_large)} clusters has {min_members} utterances (clustering.min_members): "
            "lower it, or clustering.num_clusters"
        )
    return renumbered(np.where(is_large[labels], labels, -1))


def agreement(labels: Labels, others: Labels) -> float | None:
    """Return the normalised mutual information of two labellings (N,), 0 to 1, over rows with both labels."""
    mask = (labels >= 0) & (others >= 0)
    return float(normalized_mutual_info_score(labels[mask], others[mask])) if mask.any() else None


def purity(labels: Labels, truth: Labels) -> float | None:
    """Return the share of rows (with both labels) whose speaker is the most frequent one in their cluster."""
    mask = (labels >= 0) & (truth >= 0)
    if not mask.any():
        return None
    counts = contingency_matrix(truth[mask], labels[mask], sparse=True)  # (speakers, clusters)
    return float(counts.max(axis=0).sum() / mask.sum())
