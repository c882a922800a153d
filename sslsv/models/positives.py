"""SSPS: positives of other utterances, found by clusters. Lepage and Dehak 2025, arXiv 2501.17772."""

import torch
from torch import Tensor, nn

from sslsv.models.clustering import half_unit_rows, nearest_centroids, spherical_kmeans
from sslsv.models.fields import SSPS
from sslsv.models.queue import Queue


class PositiveSampler(nn.Module):
    """Replace positives by past positives of other utterances, which may have been recorded elsewhere.

    Two views of one utterance share the recording's channel, which the encoder would learn as well. So from
    `start_epoch` on, `cluster` groups all utterances before each epoch, by embeddings of clean crops. In a
    step an anchor draws one of the `num_neighbors` clusters nearest to its own (0: its own), then one of the
    utterances of that cluster that are in the queue, and uses its newest positive. If there is none, or
    before the first `cluster`, it keeps its own positive. Then the batch's own positives, not their
    replacements, enter the queue.

    With `sampling: nearest` there are no clusters: the anchor draws one of the `num_neighbors` other
    utterances in the queue whose clean crops are most like its own. Their embeddings are kept, 1.1 GB as
    float16 for VoxCeleb2; of clusters, a checkpoint holds labels, neighbours and queue, 60 MB as published.

    As published (arXiv 2505.14561), the embeddings are collected over an epoch, each by the weights of its
    step, from a further view in the batch; here one pass by the model as it is makes them all.
    """

    labels: Tensor
    neighbors: Tensor
    references: Tensor
    utterances: Tensor

    def __init__(self, settings: SSPS, num_utterances: int, dim: int, embedding_dim: int) -> None:
        super().__init__()
        is_nearest = settings.sampling == "nearest"
        if not is_nearest and settings.num_clusters > num_utterances:
            raise ValueError(
                f"model.positives.num_clusters is {settings.num_clusters}, but the training lists have only "
                f"{num_utterances} utterance(s) to cluster: lower it."
            )
        self.settings = settings
        # Random rows would change the draws of the layers that are made later.
        self.queue = Queue(settings.queue_length, dim, starts_random=False)
        self.register_buffer("utterances", torch.full((settings.queue_length,), -1))  # of the queue's rows
        self.register_buffer("labels", torch.full((num_utterances,), -1))  # cluster of each utterance
        # The clusters that members of a cluster sample from; -1 for none.
        shape = 0 if is_nearest else settings.num_clusters, max(settings.num_neighbors, 1)
        self.register_buffer("neighbors", torch.full(shape, -1))
        shape = num_utterances if is_nearest else 0, embedding_dim
        self.register_buffer("references", torch.zeros(shape, dtype=torch.float16))

    def cluster(self, embeddings: Tensor, generator: torch.Generator) -> None:
        """Cluster all utterances by their embeddings (N, D); all workers must call this together.

        On the device of the model this holds one float16 copy of the embeddings, see `spherical_kmeans`.
        """
        settings = self.settings
        rows = half_unit_rows(embeddings, self.labels.device)
        if settings.sampling == "nearest":
            self.references.copy_(rows)
            self.labels.zero_()
            return
        clusters = spherical_kmeans(rows, settings.num_clusters, settings.kmeans_iterations, generator)
        self.labels.copy_(clusters.assignments)
        if settings.num_neighbors:
            self.neighbors.copy_(nearest_centroids(clusters, settings.num_neighbors))
        else:
            self.neighbors.copy_(torch.arange(settings.num_clusters, device=rows.device)[:, None])

    def forward(self, rows: Tensor, utterances: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (B, ...) of the global batch in which some are replaced, and their share; then push.

        `utterances` (B,) are the rows' own, `draws` (B, 2) uniform in [0, 1). Replaced rows have no gradient.
        """
        own = rows.flatten(1)
        places = self.sample(utterances, draws)
        is_replaced = places >= 0
        sampled = self.queue.rows[places.clamp_min(0)].to(own.dtype)
        result = torch.where(is_replaced[:, None], sampled, own)
        kept = self.queue.push(own.detach())
        self.utterances[kept] = utterances[len(utterances) - len(kept) :]
        return result.view_as(rows), is_replaced.float().mean()

    @torch.no_grad()
    def sample(self, utterances: Tensor, draws: Tensor) -> Tensor:
        """Return the place in the queue of a positive for each utterance (B,), -1 for none."""
        own = self.labels[utterances]
        if self.settings.sampling == "nearest":
            return self._nearest(utterances, draws[:, 1:]).masked_fill(own < 0, -1)
        options = self.neighbors[own]  # (B, num_neighbors or 1)
        wanted = options.gather(1, (draws[:, :1] * options.shape[1]).long()).squeeze(1)
        wanted = wanted.masked_fill(own < 0, -1)
        members = self.labels[self.utterances].masked_fill(~self._is_newest(), -1)
        members, places = members.sort(stable=True)  # those of one cluster beside each other
        first = torch.searchsorted(members, wanted)
        count = torch.searchsorted(members, wanted, right=True) - first
        chosen = (first + (draws[:, 1] * count).long()).clamp_max(len(places) - 1)
        return places[chosen].masked_fill((count == 0) | (wanted < 0), -1)

    def _nearest(self, utterances: Tensor, draws: Tensor) -> Tensor:
        # A score is that of an anchor and of the newest positive of another utterance.
        others = self.references[self.utterances.clamp_min(0)].float()
        scores = self.references[utterances].float() @ others.T
        is_other = self._is_newest() & (self.utterances != utterances[:, None])
        best = scores.masked_fill(~is_other, -torch.inf).topk(min(self.settings.num_neighbors, len(others)))
        count = (best.values > -torch.inf).sum(1, keepdim=True)
        places = best.indices.gather(1, (draws * count).long())
        return places.masked_fill(count == 0, -1).squeeze(1)

    def _is_newest(self) -> Tensor:
        """Tell for each place of the queue whether it holds the last positive of its utterance, (Q,)."""
        length = len(self.utterances)
        ages = (torch.arange(length, device=self.labels.device) - self.queue.next_row) % length
        ages = ages.masked_fill(self.utterances < 0, -1)  # the larger, the newer
        newest = torch.full_like(self.labels, -1)
        newest.scatter_reduce_(0, self.utterances.clamp_min(0), ages, "amax")
        return (ages >= 0) & (newest[self.utterances] == ages)
