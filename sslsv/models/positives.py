"""Self-supervised positive sampling (SSPS) from near clusters. Lepage and Dehak 2025, arXiv 2501.17772."""

import torch
from torch import Tensor, nn

from sslsv.models.clustering import half_unit_rows, nearest_centroids, spherical_kmeans
from sslsv.models.fields import SSPS
from sslsv.models.queue import Queue


class PositiveSampler(nn.Module):
    """Replace positives by past positives of other utterances, which may come from other recordings.

    Two views of one utterance share the recording's channel, so the encoder would learn the channel too. From
    `start_epoch` on, `cluster` therefore groups all utterances before each epoch, by embeddings of clean
    crops. In a step, each anchor draws one of the `num_neighbors` clusters nearest to its own (0: its own).
    Then it draws an utterance of that cluster from the queue (with 0, possibly the anchor's own) and uses its
    newest positive. If there is none, or before the first `cluster`, the anchor keeps its own positive.
    Finally, the batch's own positives, not their replacements, enter the queue.

    With `sampling: nearest` there are no clusters. The anchor draws one of the `num_neighbors` other
    utterances in the queue whose clean crops are most similar to its own. A checkpoint then holds all clean
    embeddings, 1.1 GB in float16 for VoxCeleb2. With clusters, it holds labels, neighbours and queue, 60 MB
    with the published settings.

    The authors (arXiv 2505.14561) collect the embeddings during an epoch, from an additional view in the
    batch, each with the weights of its step. Here, one pass with the current weights computes all of them.
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
        # Zeros, because random rows would change the initial weights of layers created later.
        self.queue = Queue(settings.queue_length, dim, is_random=False)
        self.register_buffer("utterances", torch.full((settings.queue_length,), -1))  # id of each row
        self.register_buffer("labels", torch.full((num_utterances,), -1))  # cluster of each utterance
        # Clusters that the members of each cluster sample from; -1 for none.
        shape = 0 if is_nearest else settings.num_clusters, max(settings.num_neighbors, 1)
        self.register_buffer("neighbors", torch.full(shape, -1))
        shape = num_utterances if is_nearest else 0, embedding_dim
        self.register_buffer("references", torch.zeros(shape, dtype=torch.float16))

    def cluster(self, embeddings: Tensor, generator: torch.Generator) -> None:
        """Cluster all utterances by their embeddings (N, D); all workers must call this together.

        With `sampling: nearest`, embeddings are only stored. This makes one float16 copy of them on the
        model's device.
        """
        settings = self.settings
        rows = half_unit_rows(embeddings, self.labels.device)
        if settings.sampling == "nearest":
            self.references.copy_(rows)
            self.labels.zero_()  # not -1: `references` are filled
            return
        clusters = spherical_kmeans(rows, settings.num_clusters, settings.kmeans_iterations, generator)
        self.labels.copy_(clusters.assignments)
        if settings.num_neighbors:
            self.neighbors.copy_(nearest_centroids(clusters, settings.num_neighbors))
        else:
            self.neighbors.copy_(torch.arange(settings.num_clusters, device=rows.device)[:, None])

    def forward(self, rows: Tensor, utterances: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (B, ...) of the global batch, some replaced, and the replaced share; update the queue.

        `utterances` (B,) are the rows' own, `draws` (B, 2) uniform in [0, 1). Replaced rows have no gradient.
        """
        own = rows.flatten(1)
        indices = self.sample(utterances, draws)
        is_replaced = indices >= 0
        sampled = self.queue.rows[indices.clamp_min(0)].to(own.dtype)
        result = torch.where(is_replaced[:, None], sampled, own)
        new_indices = self.queue.push(own.detach())
        self.utterances[new_indices] = utterances[len(utterances) - len(new_indices) :]
        return result.view_as(rows), is_replaced.float().mean()

    @torch.no_grad()
    def sample(self, utterances: Tensor, draws: Tensor) -> Tensor:
        """Return the index of a positive in the queue for each utterance (B,), or -1 for none."""
        own_clusters = self.labels[utterances]
        if self.settings.sampling == "nearest":
            return self._nearest(utterances, draws[:, 1:]).masked_fill(own_clusters < 0, -1)
        candidates = self.neighbors[own_clusters]  # (B, num_neighbors or 1)
        clusters = candidates.gather(1, (draws[:, :1] * candidates.shape[1]).long()).squeeze(1)
        clusters = clusters.masked_fill(own_clusters < 0, -1)
        row_clusters = self.labels[self.utterances].masked_fill(~self._is_newest(), -1)
        row_clusters, indices = row_clusters.sort(stable=True)  # makes the members of each cluster adjacent
        first = torch.searchsorted(row_clusters, clusters)
        count = torch.searchsorted(row_clusters, clusters, right=True) - first
        chosen = (first + (draws[:, 1] * count).long()).clamp_max(len(indices) - 1)
        return indices[chosen].masked_fill((count == 0) | (clusters < 0), -1)

    def _nearest(self, utterances: Tensor, draws: Tensor) -> Tensor:
        # Scores compare the clean crops of anchors (rows) and of utterances in the queue (columns).
        queued = self.references[self.utterances.clamp_min(0)].float()
        scores = self.references[utterances].float() @ queued.T
        is_other = self._is_newest() & (self.utterances != utterances[:, None])
        best = scores.masked_fill(~is_other, -torch.inf).topk(min(self.settings.num_neighbors, len(queued)))
        count = (best.values > -torch.inf).sum(1, keepdim=True)
        indices = best.indices.gather(1, (draws * count).long())
        return indices.masked_fill(count == 0, -1).squeeze(1)

    def _is_newest(self) -> Tensor:
        """Return for each queue row whether it holds the newest positive of its utterance, (Q,)."""
        length = len(self.utterances)
        recency = (torch.arange(length, device=self.labels.device) - self.queue.next_row) % length
        recency = recency.masked_fill(self.utterances < 0, -1)  # larger is newer; -1 for empty rows
        newest = torch.full_like(self.labels, -1)
        newest.scatter_reduce_(0, self.utterances.clamp_min(0), recency, "amax")
        return (recency >= 0) & (newest[self.utterances] == recency)
