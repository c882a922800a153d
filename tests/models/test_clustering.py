import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from sslsv.models.clustering import Clusters, half_unit_rows, nearest_centroids, sinkhorn, spherical_kmeans
from tests.encoders.peers import lightly_loss


def scores(rows: int = 12, prototypes: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(41)
    return torch.rand(rows, prototypes, generator=generator, dtype=torch.float64) * 2 - 1


def test_sinkhorn__is_that_of_lightly() -> None:
    expected = lightly_loss("swav_loss", "sinkhorn")(scores().float(), iterations=3, epsilon=0.05)
    assert torch.allclose(sinkhorn(scores().float(), 0.05, 3), expected, rtol=1e-4, atol=1e-7)


def test_sinkhorn__equal_scores_give_equal_codes_and_a_constant_changes_nothing() -> None:
    assert torch.allclose(sinkhorn(torch.full((6, 4), 0.3), 0.05, 3), torch.full((6, 4), 0.25))
    assert torch.allclose(sinkhorn(scores() + 0.7, 0.05, 3), sinkhorn(scores(), 0.05, 3))


@pytest.mark.parametrize(("iterations", "is_alike"), [(3, False), (1000, True)])
def test_sinkhorn__an_offset_of_each_row_changes_codes_until_they_are_balanced(iterations, is_alike) -> None:
    offsets = scores(12, 1)
    codes = [sinkhorn(each, 0.2, iterations) for each in (scores(), scores() + offsets)]
    assert torch.allclose(*codes, atol=1e-6) == is_alike


def test_sinkhorn__as_many_far_apart_rows_as_prototypes_get_one_each() -> None:
    assert torch.allclose(sinkhorn(torch.eye(5)[[2, 0, 1, 4, 3]], 0.01, 3), torch.eye(5)[[2, 0, 1, 4, 3]])


def test_sinkhorn__an_epsilon_that_overflows_exponentials_gives_finite_codes() -> None:
    codes = sinkhorn(scores().float(), 0.001, 3)
    assert torch.isfinite(codes).all() and torch.allclose(codes.sum(1), torch.ones(12))


def blobs(rows_each: int = 40, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of any length around three directions, and the direction of each."""
    generator = torch.Generator().manual_seed(42)
    labels = torch.arange(3).repeat(rows_each)
    rows = torch.eye(dim)[labels] + 0.1 * torch.randn(len(labels), dim, generator=generator)
    return rows * torch.rand(len(labels), 1, generator=generator).add(0.5), labels


def cluster(rows: torch.Tensor, num_clusters: int, iterations: int = 10, seed: int = 3) -> Clusters:
    return spherical_kmeans(rows, num_clusters, iterations, torch.Generator().manual_seed(seed))


def pairs(labels: torch.Tensor) -> torch.Tensor:
    return labels[:, None] == labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_spherical_kmeans__finds_separate_directions(dtype: torch.dtype) -> None:
    rows, labels = blobs()
    # Starting with two rows of the same direction can end in a local optimum, which is not an error.
    found = (cluster(rows.to(dtype), 3, seed=seed) for seed in range(50))
    clusters = next(each for each in found if torch.equal(pairs(each.assignments), pairs(labels)))
    means = torch.stack([F.normalize(rows, dim=1)[labels == i].mean(0) for i in range(3)])
    cosines = clusters.centroids.float() @ F.normalize(means, dim=1).T
    assert torch.allclose(cosines.max(1).values, torch.ones(3), atol=1e-5)


def test_spherical_kmeans__one_step_is_the_normalised_means() -> None:
    rows = F.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(5)), dim=1)
    start = torch.randperm(300, generator=torch.Generator().manual_seed(3))[:6]
    means = cluster(rows, 6, iterations=1).centroids
    first = (rows @ rows[start].T).argmax(1)
    by_hand = torch.stack([rows[first == i].mean(0) for i in range(6)])
    assert torch.allclose(means, F.normalize(by_hand, dim=1), atol=1e-6)


def test_spherical_kmeans__each_row_is_with_its_nearest_centroid() -> None:
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    clusters = cluster(rows, 20)
    assert torch.equal(clusters.assignments, (F.normalize(rows, dim=1) @ clusters.centroids.T).argmax(1))
    assert torch.allclose(clusters.centroids.norm(dim=1), torch.ones(20))


def test_spherical_kmeans__clusters_without_rows_stay() -> None:
    rows = torch.eye(3)[[0, 0, 0, 0, 1]]
    clusters = cluster(rows, 5)  # the last centroids are duplicates and get no rows
    assert torch.isfinite(clusters.centroids).all()
    assert set(clusters.assignments.unique().tolist()) <= set(range(5))
    assert len(clusters.assignments.unique()) == 2


def test_spherical_kmeans__as_many_clusters_as_rows_are_the_rows() -> None:
    rows = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    clusters = cluster(rows, 9)
    assert torch.equal(clusters.assignments.sort().values, torch.arange(9))
    with pytest.raises(ValueError, match="9 rows cannot make 10 clusters"):
        cluster(rows, 10)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(many_blocks(), f"{folder}/clusters_{rank}.pt")
    dist.destroy_process_group()


def many_blocks() -> tuple[torch.Tensor, ...]:
    from sslsv.models import clustering

    clustering.BLOCK_SCORES = 31 * 70  # 70 rows per block; the last block is incomplete
    rows = torch.randn(1000, 16, generator=torch.Generator().manual_seed(6))
    return tuple(cluster(rows, 31))


@pytest.mark.slow
def test_spherical_kmeans__two_workers_find_what_one_does_bit_for_bit(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslsv.models.clustering.BLOCK_SCORES", 1)
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    expected = many_blocks()
    for rank in range(2):
        found = torch.load(tmp_path / f"clusters_{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nearest_centroids__are_others_that_have_rows() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 0.31, 2.0])
    centroids = torch.stack([angles.cos(), angles.sin()], 1)
    clusters = Clusters(centroids, torch.tensor([0, 1, 2, 4, 4]))  # cluster 3 is empty
    expected = [[1, 2, 4, -1], [0, 2, 4, -1], [1, 0, 4, -1], [2, 1, 0, 4], [2, 1, 0, -1]]
    assert nearest_centroids(clusters, 4).tolist() == expected


def test_half_unit_rows__are_unit_up_to_rounding() -> None:
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(6)) * 9
    half = half_unit_rows(rows, torch.device("cpu"))
    assert half.dtype == torch.float16
    assert torch.allclose((half.float() * F.normalize(rows, dim=1)).sum(1), torch.ones(50), atol=1e-3)
