import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslsv.tasks import clustering
from sslsv.tasks.clustering import (
    agreement,
    check_packages,
    cluster,
    drop_small_clusters,
    nearest_rows,
    purity,
    silhouette,
)
from sslsv.tasks.pseudo_labels import ClusteringConfig

NUM_SPEAKERS, EACH = 6, 8
TRUTH = np.repeat(np.arange(NUM_SPEAKERS), EACH)


def rows(noise=0.1):
    """Return unit rows of six voices with eight utterances each."""
    voices = torch.eye(NUM_SPEAKERS, 16).repeat_interleave(EACH, 0)
    around = noise * torch.randn(voices.shape, generator=torch.Generator().manual_seed(1))
    return F.normalize(voices + around, dim=1).half()


def config(**settings):
    return ClusteringConfig(**{"num_clusters": (NUM_SPEAKERS,), "min_members": 1, **settings})


@pytest.mark.parametrize(
    ("name", "num_centroids"), [("kmeans_agglomerative", n) for n in (48, 20)] + [("infomap", 6)]
)
def test_cluster__finds_voices_that_are_apart(name, num_centroids):
    settings = config(name=name, num_neighbors=5, num_centroids=num_centroids)
    labels, silhouettes = cluster(rows(), settings, seed=1)
    assert agreement(labels, TRUTH) == pytest.approx(1)
    assert silhouettes[NUM_SPEAKERS] > 0.8


def test_cluster__chooses_the_number_without_labels():
    settings = config(name="kmeans_agglomerative", num_clusters=(3, 6, 12, 24))
    labels, silhouettes = cluster(rows(0.2), settings, seed=1)
    assert set(silhouettes) == {3, 6, 12, 24}
    assert labels.max() + 1 == NUM_SPEAKERS


@pytest.mark.parametrize("name", ["kmeans", "kmeans_agglomerative"])
def test_cluster__is_a_function_of_rows_and_seed(name):
    first, same, other = (cluster(rows(1.0), config(name=name), seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], same[0]) and first[1] == same[1]
    assert name != "kmeans" or not np.array_equal(first[0], other[0])


def test_silhouette__is_the_sum_over_rows_left_out_of_their_own_centroid():
    some, labels = rows(0.5), np.array([0, 1, 2] * 15 + [0, 1, 3])
    values = []
    for i, label in enumerate(labels):
        means = [some[(labels == k) & (np.arange(48) != i)].float().sum(0) for k in range(4)]
        if label == 3:
            values.append(0.0)
            continue
        cosines = [float(F.cosine_similarity(some[i].float(), mean, dim=0)) for mean in means]
        a, b = 1 - cosines[label], 1 - max(cosines[:label] + cosines[label + 1 :])
        values.append((b - a) / max(a, b))
    assert silhouette(some, labels) == pytest.approx(np.mean(values), abs=1e-5)


def test_nearest_rows__are_the_nearest_in_however_many_parts(monkeypatch):
    some, whole = rows(1.0), None
    for at_once, scores in ((1024, 2**26), (7, 7 * 10)):
        monkeypatch.setattr(clustering, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(clustering, "BLOCK_SCORES", scores)
        found = nearest_rows(some, 4)
        whole = whole or found
        assert all(np.array_equal(a, b) for a, b in zip(found[:2], whole[:2], strict=True))
    cosines = (some.float() @ some.float().T).fill_diagonal_(-2)
    nearest = cosines.topk(4, dim=1)
    assert whole[0].tolist() == [i for i in range(48) for _ in range(4)]
    assert whole[1].reshape(48, 4).tolist() == nearest.indices.tolist()
    assert np.allclose(whole[2].reshape(48, 4), nearest.values)


def test_drop_small_clusters__small_clusters_are_dropped():
    labels = TRUTH.copy()
    labels[:2] = 6  # two utterances of the first voice
    dropped = drop_small_clusters(labels, 3)
    assert dropped[:2].tolist() == [-1, -1] and dropped.max() == 5
    with pytest.raises(ValueError, match="none of the 6 clusters has 9 utterances"):
        drop_small_clusters(TRUTH, 9)


def test_purity__counts_the_most_frequent_speaker_of_each_cluster():
    labels, truth = np.array([0, 0, 0, 1, 1, -1]), np.array([5, 5, 2, 2, 2, 7])
    assert purity(labels, truth) == pytest.approx(4 / 5)
    assert purity(np.array([-1]), np.array([1])) is None


def test_check_packages__a_missing_one_is_named(monkeypatch):
    monkeypatch.setattr(clustering.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs a package .* `pip install 'infomap<3'`"):
        check_packages(config(name="infomap"))
    check_packages(config())


def test_settings__more_clusters_than_are_merged_are_refused():
    with pytest.raises(ValueError, match="more than the 20 centroids"):
        config(name="kmeans_agglomerative", num_clusters=(30,), num_centroids=20)
