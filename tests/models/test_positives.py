"""Check that SSPS changes nothing before its start, and then replaces exactly the right positives."""

import dataclasses
import functools
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from benchmarks.world_size import SIZE, NoiseCorpus, noise_batch, small_settings
from sslsv import registry
from sslsv.models.base import Model, Progress
from sslsv.models.fields import SSPS
from sslsv.models.positives import PositiveSampler
from tests.models import networks

METHODS = [name for name in registry.names("models") if hasattr(small_settings(name), "positives")]
NEVER = SSPS(start_epoch=9, num_clusters=6, queue_length=24)
FROM_START = SSPS(start_epoch=0, num_clusters=6, queue_length=24)
NEAREST = SSPS(sampling="nearest", start_epoch=0, queue_length=24)


def small(name: str, positives: SSPS | None) -> Model:
    torch.manual_seed(30)
    settings = dataclasses.replace(small_settings(name), positives=positives)
    return registry.find("models", name)(settings, networks.PlainEncoder(), SIZE).double()


def steps(model: Model, first: int = 0, last: int = 4) -> tuple[list[float], list[float], list[torch.Tensor]]:
    """Train in epochs of two steps; return the losses, the coverages and the last gradients."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses, coverages = [], []
    for step in range(first, last):
        progress = Progress(step, 8, step // 2, 4, seed=5)
        if step % 2 == 0:
            model.start_epoch(progress, NoiseCorpus())
        optimizer.zero_grad()
        output = model(noise_batch(model, torch.Generator().manual_seed(step)), progress)
        output.loss.backward()
        optimizer.step()
        model.after_step(progress)
        losses.append(output.loss.item())
        coverages.append(float(output.metrics.get("coverage", 0.0)))
    return losses, coverages, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@functools.cache
def plain_steps(name: str) -> tuple[list[float], list[float], list[torch.Tensor]]:
    return steps(small(name, None))


@pytest.mark.parametrize("name", METHODS)
def test_positives__that_replace_nothing_are_the_method_without_bit_for_bit(name: str) -> None:
    losses, coverages, gradients = steps(small(name, NEVER))
    expected, _, expected_gradients = plain_steps(name)
    assert losses == expected and set(coverages) == {0.0}
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_positives__that_replace_something_change_the_loss(name: str) -> None:
    losses, coverages, _ = steps(small(name, FROM_START))
    expected, _, _ = plain_steps(name)
    assert coverages[0] == 0 and losses[0] == expected[0]  # the queue is still empty
    assert coverages[-1] > 0 and losses[-1] != expected[-1]


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, FROM_START) for name in METHODS), ("simclr", NEAREST)], ids=str
)
def test_positives__a_resumed_run_goes_on_bit_for_bit(name: str, settings: SSPS) -> None:
    model, resumed = small(name, settings), small(name, settings)
    steps(model, 0, 3)  # into the middle of an epoch
    resumed.load_state_dict(model.state_dict())
    assert steps(model, 3, 6)[0] == steps(resumed, 3, 6)[0]


def test_start_epoch__from_the_set_one_on_it_clusters_clean_crops_of_the_set_length() -> None:
    settings = SSPS(start_epoch=2, num_clusters=6, queue_length=24, reference_seconds=0.7)
    model, corpus = small("simclr", settings), mock.Mock(wraps=NoiseCorpus())
    for epoch in (1, 2):
        model.start_epoch(Progress(2 * epoch, 8, epoch, 4), corpus)
        assert corpus.embed.mock_calls == [mock.call(model, seconds=0.7, clean=True)] * (epoch - 1)


NUM, DIM = 30, 4


def sampler(labels: torch.Tensor, queue_length: int = 20) -> PositiveSampler:
    """Return a sampler with these clusters of utterances; it samples from the anchor's own cluster only."""
    num_clusters = int(labels.max()) + 1
    settings = SSPS(num_clusters=num_clusters, num_neighbors=0, queue_length=queue_length)
    result = PositiveSampler(settings, len(labels), DIM, DIM)
    result.labels.copy_(labels)
    result.neighbors.copy_(torch.arange(num_clusters)[:, None])
    return result


def push(target: PositiveSampler, utterances: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """Push rows whose first value is their utterance and whose second is `value`."""
    rows = torch.zeros(len(utterances), DIM)
    rows[:, 0], rows[:, 1] = utterances, value
    return target(rows, utterances, torch.rand(len(utterances), 2, dtype=torch.float64))[0]


def draws(count: int, step: int = 0) -> torch.Tensor:
    return Progress(step, 10, 0, 1).draws(torch.arange(count), 2)


def test_sample__takes_an_utterance_of_the_drawn_cluster_that_is_in_the_queue() -> None:
    labels = torch.arange(NUM) % 3
    target = sampler(labels)
    push(target, torch.arange(10, 22))
    slots = target.sample(torch.arange(NUM), draws(NUM))
    assert torch.equal(labels[target.utterances[slots]], labels)  # all from the anchor's cluster


def test_sample__with_one_cluster_is_uniform_over_the_utterances_in_the_queue() -> None:
    target = sampler(torch.zeros(NUM, dtype=torch.int64))
    push(target, torch.arange(5))
    slots = torch.cat([target.sample(torch.arange(NUM), draws(NUM, step)) for step in range(200)])
    shares = torch.bincount(target.utterances[slots], minlength=5) / len(slots)
    assert shares.shape == (5,) and torch.allclose(shares, torch.full((5,), 0.2), atol=0.02)


def test_sample__with_a_cluster_for_each_utterance_finds_only_its_own_older_positive() -> None:
    target = sampler(torch.arange(NUM))
    push(target, torch.arange(10, 20))
    slots = target.sample(torch.arange(NUM), draws(NUM))
    found = slots >= 0
    assert torch.equal(found.nonzero().flatten(), torch.arange(10, 20))
    assert torch.equal(target.utterances[slots[found]], torch.arange(10, 20))


def test_sample__takes_the_newest_positive_of_an_utterance() -> None:
    target = sampler(torch.arange(NUM), queue_length=12)
    for value in range(4):  # wraps around the ring buffer
        push(target, torch.arange(5), float(value))
    rows = push(target, torch.arange(5), 9.0)
    assert torch.equal(rows[:, 1], torch.full((5,), 3.0))


def nearest_sampler(num_neighbors: int) -> PositiveSampler:
    """Return a sampler of utterances whose directions rotate with their number."""
    settings = SSPS(sampling="nearest", num_neighbors=num_neighbors, queue_length=20)
    target = PositiveSampler(settings, NUM, DIM, 2)
    angles = torch.arange(NUM) / NUM
    target.cluster(torch.stack([angles.cos(), angles.sin()], 1), torch.Generator())
    return target


@pytest.mark.parametrize("num_neighbors", [1, 3])
def test_sample__nearest_takes_one_of_the_most_similar_others_in_the_queue(num_neighbors: int) -> None:
    target, queued = nearest_sampler(num_neighbors), torch.arange(0, NUM, 2)
    push(target, queued)
    samples = [target.utterances[target.sample(torch.arange(NUM), draws(NUM, step))] for step in range(30)]
    for utterance, found in enumerate(torch.stack(samples, 1).tolist()):
        gaps = sorted(abs(other - utterance) for other in queued.tolist() if other != utterance)
        assert max(abs(other - utterance) for other in found) <= gaps[num_neighbors - 1]
        assert utterance not in found and len(set(found)) >= min(num_neighbors, 2)


def test_sampler__pushes_the_own_positives_and_not_what_replaced_them() -> None:
    target = sampler(torch.zeros(NUM, dtype=torch.int64))
    push(target, torch.arange(5), 1.0)
    push(target, torch.arange(5, 10), 2.0)
    rows = target.queue.rows[:10]
    assert torch.equal(rows[:, 0], torch.arange(10.0))
    assert torch.equal(rows[:, 1], torch.tensor([1.0] * 5 + [2.0] * 5))


def test_sampler__replaced_rows_have_no_gradient() -> None:
    labels = torch.arange(NUM) % 2
    target = sampler(labels)
    push(target, torch.arange(0, 8, 2))  # only members of cluster 0
    rows = torch.randn(6, 2, DIM // 2, requires_grad=True)
    result, coverage = target(rows, torch.arange(6), draws(6))
    result.sum().backward()
    assert result.shape == rows.shape and coverage.item() == 0.5
    assert torch.equal(rows.grad[:, 0, 0], labels[:6].float())


def test_cluster__neighbours_are_other_clusters_and_labels_those_of_the_embeddings() -> None:
    target = PositiveSampler(SSPS(num_clusters=4, num_neighbors=1, queue_length=8), 40, DIM, DIM)
    angles = torch.tensor([0.0, 0.2, 1.5, 1.8]).repeat_interleave(10) + 0.001 * torch.arange(40)
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    for seed in range(20):  # until the initial centroids have four directions
        target.cluster(rows, torch.Generator().manual_seed(seed))
        if len(target.labels[::10].unique()) == 4:
            break
    label = target.labels.view(4, 10)
    assert (label == label[:, :1]).all()
    assert target.neighbors[label[:, 0], 0].tolist() == label[[1, 0, 3, 2], 0].tolist()


def test_positives__what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_neighbors is 5, but each of the 5 clusters .* only 4 other"):
        SSPS(num_clusters=5, num_neighbors=5)
    with pytest.raises(ValueError, match=r"model.positives.num_clusters is 41, .* only 40 utterance"):
        PositiveSampler(SSPS(num_clusters=41), 40, DIM, DIM)
    with pytest.raises(ValueError, match='num_neighbors is 0 and sampling "nearest"'):
        SSPS(sampling="nearest", num_neighbors=0)


def test_draws__are_uniform_and_depend_on_seed_step_and_utterance_alone() -> None:
    ids, progress = torch.arange(20_000), Progress(3, 9, 0, 1, seed=4)
    numbers = progress.draws(ids, 2)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))[:50]
    assert torch.equal(progress.draws(ids[order], 2), numbers[order])
    for other in (Progress(4, 9, 0, 1, seed=4), Progress(3, 9, 0, 1, seed=5)):
        assert (other.draws(ids, 2) == numbers).sum() == 0
    assert numbers.min() >= 0 and numbers.max() < 1 and len(numbers.unique()) == numbers.numel()
    counts = torch.histc(numbers[:, 0] * 10 + (numbers[:, 1] * 10).floor() * 10, 100, 0, 100)
    assert ((counts - 200).square() / 200).sum() < 150  # chi-square of 99 degrees: 99.9 % are below 149
    assert F.cosine_similarity(numbers[1:, 0] - 0.5, numbers[:-1, 0] - 0.5, dim=0).abs() < 0.03
