"""Estimate the time of clustering VoxCeleb2 for pseudo-labels.  python -m benchmarks.clustering

Each part runs once (k-means several times) on random rows of 512 values, on all cores of this machine or on
its GPU. The times are then scaled to VoxCeleb2: by N x K for k-means and silhouette, N x N for neighbours,
K x K for Ward's method.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.command import memory_bytes, parser_of
from sslsv.models.clustering import half_unit_rows, spherical_kmeans
from sslsv.tasks.clustering import cluster, nearest_rows, silhouette
from sslsv.tasks.pseudo_labels import ClusteringConfig

CORPUS, DIM = 1_092_009, 512


def seconds_of(part: Callable[[], object]) -> float:
    start = time.monotonic()
    part()
    return time.monotonic() - start


def seconds_of_iteration(iterate: Callable[[int], object]) -> float:
    """Return the seconds of an iteration without fixed costs: median of (six iterations - one) / 5."""
    iterate(1)
    return statistics.median(
        (seconds_of(lambda: iterate(6)) - seconds_of(lambda: iterate(1))) / 5 for _ in range(3)
    )


def main() -> None:
    parser = parser_of("clustering", __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=2500)
    parser.add_argument("--ward-rows", type=int, default=5000)
    options = parser.parse_args()
    count, clusters, ward_rows = options.rows, options.clusters, options.ward_rows
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    rows = half_unit_rows(torch.randn(count, DIM, generator=generator), device)
    labels = torch.randint(clusters, (count,), generator=generator).numpy()
    iteration_seconds = seconds_of_iteration(
        lambda repeats: spherical_kmeans(rows, clusters, repeats, generator).assignments.sum().item()
    )
    silhouette_seconds = seconds_of(lambda: silhouette(rows, labels))
    sample = rows[: 2**14]
    graph_seconds = seconds_of(lambda: nearest_rows(sample, 30))
    config = ClusteringConfig(name="kmeans_agglomerative", num_clusters=(ward_rows // 4,), min_members=1)
    ward_seconds = seconds_of(lambda: cluster(rows[:ward_rows], config, 0))
    hardware = f"{os.cpu_count()} cores" if device.type == "cpu" else "one GPU"
    print(f"{hardware}, {count} rows, {clusters} clusters: an iteration {iteration_seconds:.1f} s,", end=" ")
    print(f"silhouette {silhouette_seconds:.1f} s; neighbours of {len(sample)} rows {graph_seconds:.1f} s;")
    print(f"Ward's method on {ward_rows} rows {ward_seconds:.1f} s;")
    print(f"largest memory of this process {memory_bytes() / 2**30:.1f} GB")
    for num_clusters in (7500, 20_000, 50_000):
        factor = CORPUS / count * num_clusters / clusters
        hours = (20 * iteration_seconds + silhouette_seconds) * factor / 3600
        print(f"{CORPUS} rows, {num_clusters} clusters, 20 iterations and the silhouette: {hours:.1f} h")
    print(f"their neighbours: {graph_seconds * (CORPUS / len(sample)) ** 2 / 3600:.1f} h", end="; ")
    print(f"Ward's method on 20,000: {ward_seconds * (20_000 / ward_rows) ** 2 / 60:.1f} min")


if __name__ == "__main__":
    main()
