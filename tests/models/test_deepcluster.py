import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.world_size import SIZE, NoiseCorpus, noise_batch
from sslsv.models.base import CorpusSize, Progress
from sslsv.models.clustering import spherical_kmeans
from sslsv.models.deepcluster import DeepCluster, deepcluster_loss
from tests.models import networks
from tests.models.networks import unit

FIRST, SECOND = Progress(0, 10, 0, 2), Progress(5, 10, 1, 2)


def small() -> DeepCluster:
    return networks.small(DeepCluster, SIZE, width=2, projector_dims=(16, 8), num_prototypes=6)


def test_deepcluster_loss__is_the_mean_over_heads_and_views_in_loops() -> None:
    z, prototypes = unit(2, 5, 4, seed=1), unit(3, 7, 4, seed=2)
    labels = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(3))
    losses = [
        F.cross_entropy(z[view] @ prototypes[head].T / 0.1, labels[head])
        for head in range(3)
        for view in range(2)
    ]
    expected = torch.stack(losses).mean().item()
    assert deepcluster_loss(z, prototypes, labels, 0.1).item() == pytest.approx(expected, rel=1e-12)


def test_deepcluster_loss__rows_without_a_cluster_are_not_counted() -> None:
    z, prototypes = unit(2, 5, 4, seed=1), unit(1, 7, 4, seed=2)
    labels = torch.tensor([[3, -1, 2, -1, 0]])
    expected = deepcluster_loss(z[:, [0, 2, 4]], prototypes, labels[:, [0, 2, 4]], 0.1).item()
    assert deepcluster_loss(z, prototypes, labels, 0.1).item() == pytest.approx(expected, rel=1e-12)
    assert deepcluster_loss(z, prototypes, torch.full((1, 5), -1), 0.1).item() == 0


def test_deepcluster__every_utterance_has_a_cluster_before_the_first_step() -> None:
    model = small()
    model.start_epoch(FIRST, NoiseCorpus())
    assert model.labels.min() >= 0 and model.training and model.projector.training
    assert torch.allclose(model.memory.float().norm(dim=2), torch.ones(2, SIZE.num_utterances), atol=2e-3)
    assert not torch.equal(model.labels[0], model.labels[2])  # two initialisations for one view
    assert torch.isfinite(model(noise_batch(model, torch.Generator().manual_seed(1)), FIRST).loss)


def test_deepcluster__the_memory_holds_an_utterances_last_projections() -> None:
    model = small()
    model.start_epoch(FIRST, NoiseCorpus())
    before, data = model.memory.clone(), noise_batch(model, torch.Generator().manual_seed(1))
    model(data, FIRST)
    seen = torch.zeros(SIZE.num_utterances, dtype=torch.bool)
    seen[data["utterance"]] = True
    assert torch.equal(model.memory[:, ~seen], before[:, ~seen])
    labels = model.labels.clone()
    model.start_epoch(SECOND, None)  # type: ignore[arg-type]  # needs no pass over the corpus
    assert not torch.equal(model.labels, labels)
    model.eval()
    with torch.no_grad():
        model(data, FIRST)
        z = model.projector(model.encoder(data["views"][:, 1]))
    assert torch.allclose(model.memory[1, data["utterance"]].float(), F.normalize(z, dim=1), atol=1e-3)


def test_deepcluster__more_clusters_than_utterances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.num_prototypes is 3000, but .* only 0 utterance"):
        DeepCluster(DeepCluster.Config(), torch.nn.Identity(), CorpusSize())


def test_deepcluster_loss__of_equal_prototypes_is_ln_k() -> None:
    prototypes, labels = unit(1, 4).expand(3, 7, -1), torch.zeros(3, 5, dtype=torch.int64)
    assert deepcluster_loss(unit(2, 5, 4), prototypes, labels, 0.1).item() == pytest.approx(math.log(7))


def test_deepcluster__rows_are_classified_into_their_utterances_clusters_in_views_0_1_0() -> None:
    model = small().eval()
    model.memory.copy_(unit(2, SIZE.num_utterances, 8))
    model.start_epoch(SECOND, NoiseCorpus())
    data = noise_batch(model, torch.Generator().manual_seed(1))
    z = [F.normalize(model.projector(model.encoder(view)), dim=1) for view in data["views"].unbind(1)]
    losses = []
    for head, view in enumerate((0, 1, 0)):
        clusters = spherical_kmeans(model.memory[view], 6, 10, SECOND.generator(head))
        labels = clusters.assignments[data["utterance"]]
        losses += [F.cross_entropy(rows @ clusters.centroids.T / 0.1, labels) for rows in z]
    expected = torch.stack(losses).mean().item()
    assert model(data, SECOND).loss.item() == pytest.approx(expected, rel=1e-5)
