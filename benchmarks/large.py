"""Measure parts at published sizes (pairs, prototypes, clusters, trials): seconds, and memory besides inputs.

Each way runs in its own process (`python -m benchmarks.large NAME WAY` prints its seconds and MB).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.command import in_own_process, memory_bytes
from benchmarks.row import Row, Settings
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scoring import cosine_scores, normalise_scores
from sslsv.models import contrast
from sslsv.models.clustering import spherical_kmeans
from sslsv.models.dino import dino_loss

ITERATIONS = 5  # iterations of k-means
Work = Callable[[], object]


def rows(settings: Settings) -> Iterator[Row]:
    """Yield a row per part and reference; the first way of a part is ours."""
    repeats, quick = (1, ["--quick"]) if settings.is_quick else (3, [])
    for name, (_, title, target, ways) in PARTS.items():
        runs = {way: [in_own_process("large", name, way, *quick) for _ in range(repeats)] for way in ways}
        ours, *references = ways
        for way in references or [""]:
            seconds = [[run["seconds"] for run in runs[each]] for each in (ours, way) if each]
            memory = ", ".join(f"{each} {runs[each][0]['mb']:,.0f} MB" for each in (ours, way) if each)
            medians = [statistics.median(each) for each in seconds]
            ratios = [b / a for a, b in zip(*seconds, strict=True)] if way else []
            yield Row(title, way, medians[0], medians[-1], "s", ratios, target if way else None, limit=memory)


def nt_xent(way: str, is_quick: bool) -> Work:
    """Compute NT-Xent and its gradient for 8,192 pairs of 512 values."""
    z_a, z_b = (torch.randn(64 if is_quick else 8192, 512).requires_grad_() for _ in range(2))
    if way == "ours":
        return lambda: contrast.nt_xent(z_a, z_b, 0.03)[0].backward()
    return lambda: contrast.contrastive_loss(*contrast.nt_xent_logits(z_a, z_b, 0.03)).backward()


def dino_head(way: str, is_quick: bool) -> Work:
    """Compute DINO's loss and its gradient for six views of 64 rows and 65,536 prototypes of 256 values."""
    count, batch = (256, 8) if is_quick else (65_536, 64)
    views, prototypes = (F.normalize(torch.randn(*size), dim=-1) for size in ((6, batch, 256), (count, 256)))
    views.requires_grad_(), prototypes.requires_grad_()
    targets = torch.randn(2, batch, count).softmax(2)

    def plain() -> None:
        logits = (views @ prototypes.T / 0.1).log_softmax(2)
        pairs = [-(t * logits[v]).sum(1).mean() for i, t in enumerate(targets) for v in range(6) if v != i]
        torch.stack(pairs).mean().backward()

    return (lambda: dino_loss(views, prototypes, targets, 0.1).backward()) if way == "ours" else plain


def kmeans(way: str, is_quick: bool) -> Work:
    """Run five iterations of k-means, started from some of the rows, and the final assignment."""
    count, clusters = (2000, 50) if is_quick else (100_000, 2500)
    points = F.normalize(torch.randn(count, 512), dim=1)
    if way == "ours":
        generator = torch.Generator().manual_seed(0)
        return lambda: spherical_kmeans(points, clusters, ITERATIONS, generator)
    if way == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())

        def by_faiss() -> None:
            clustering = faiss.Kmeans(
                512, clusters, niter=ITERATIONS, spherical=True, max_points_per_centroid=10**6
            )
            clustering.train(points.numpy())
            clustering.index.search(points.numpy(), 1)

        return by_faiss
    from sklearn.cluster import KMeans

    return lambda: KMeans(clusters, init="random", n_init=1, max_iter=ITERATIONS, tol=0).fit(points.numpy())


def as_norm(way: str, is_quick: bool) -> Work:
    """Apply AS-norm to a million trials of 5,000 recordings, with the 300 nearest of a cohort of 20,000."""
    count, recordings, cohort_size = (1000, 100, 400) if is_quick else (1_000_000, 5000, 20_000)
    embeddings, cohort = torch.randn(recordings, 512).numpy(), torch.randn(cohort_size, 512).numpy()
    enrol, test = np.random.default_rng(0).integers(recordings, size=(2, count))
    scores = cosine_scores(embeddings, enrol, test)
    return lambda: normalise_scores("as", scores, embeddings, enrol, test, cohort, 300)


def trials(way: str, is_quick: bool) -> Work:
    """Compute scores, EER and minDCF at VoxCeleb1-E's size: 579,818 trials of 145,160 recordings."""
    count, recordings = (1000, 100) if is_quick else (579_818, 145_160)
    embeddings, rng = torch.randn(recordings, 512).numpy(), np.random.default_rng(0)
    (enrol, test), targets = rng.integers(recordings, size=(2, count)), rng.random(count) < 0.5

    def evaluate() -> None:
        curve = ErrorCurve.of(cosine_scores(embeddings, enrol, test), targets)
        curve.eer(), curve.min_dcf()

    return evaluate


# Name -> the work, the title of the row, the target ratio, the ways.
PARTS: dict[str, tuple[Callable[[str, bool], Work], str, float | None, list[str]]] = {
    "nt_xent": (nt_xent, "NT-Xent of 8,192 pairs, with gradient", 1.0, ["ours", "autograd, all logits"]),
    "dino_head": (
        dino_head,
        "DINO's loss, 65,536 prototypes, with gradient",
        0.75,
        ["ours", "autograd, all logits"],
    ),
    "kmeans": (kmeans, "k-means, 100,000 x 512 into 2,500", 1.0, ["ours", "faiss", "scikit-learn"]),
    "as_norm": (as_norm, "AS-norm, 1 M trials, cohort of 20,000", None, ["ours"]),
    "trials": (trials, "VoxCeleb1-E's size: 579,818 trials", None, ["ours"]),
}


def main() -> None:
    name, way, *quick = sys.argv[1:]
    torch.manual_seed(0)
    work, before = PARTS[name][0](way, bool(quick)), memory_bytes("VmRSS")
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "mb": max(memory_bytes() - before, 0) / 1e6}))


if __name__ == "__main__":
    main()
