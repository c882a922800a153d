"""DeepCluster v2: predict clusters of past projections. Caron et al., arXiv 1807.05520 and 2006.09882."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import Corpus, CorpusSize, Progress, StepOutput
from sslsv.models.clustering import spherical_kmeans
from sslsv.models.fields import Temperature, TwoViewConfig
from sslsv.models.two_view import ProjectedViews
from sslsv.ops import distributed
from sslsv.settings import section


def deepcluster_loss(z: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean cross entropy of unit rows (2, B, P) with their clusters, over heads, views and rows.

    Prototypes (H, K, P) are the unit vectors of each head. Labels (H, B) hold the cluster of each row in each
    head, the same for both views. Rows with label -1 have no cluster and are not counted.
    """
    logits = torch.einsum("vbp,hkp->hvbk", z, prototypes) / temperature
    targets = labels[:, None].expand(-1, 2, -1).flatten()
    total = F.cross_entropy(logits.flatten(0, 2), targets, ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum().clamp_min(1)


class DeepCluster(ProjectedViews):
    """Classify utterances into the clusters of their past projections, computed before each epoch.

    A memory has one row per utterance and view, updated whenever the utterance is in a batch. Before each
    epoch, spherical k-means gives each head its prototypes and labels: head h clusters the rows of view
    h mod 2, with its own random start. Before the first epoch, the memory is filled with the projections of
    one augmented crop per utterance, in evaluation mode (the authors use training mode).

    The memory is float16: 2 KB per utterance for projections of 512 values, 2.2 GB for VoxCeleb2. Every
    checkpoint contains it.
    """

    memory: Tensor
    prototypes: Tensor
    labels: Tensor

    @section
    class Config(TwoViewConfig):
        """Hold the settings of DeepCluster; the defaults are those published for VoxCeleb."""

        name: Literal["deepcluster"] = "deepcluster"
        groups_utterances: ClassVar[bool] = True
        num_prototypes: Annotated[int, Field(ge=2, description="clusters per head")] = 3000
        num_heads: Annotated[int, Field(ge=1, le=16, description="clusterings, alternating over views")] = 3
        temperature: Temperature = 0.1
        kmeans_iterations: Annotated[int, Field(ge=1, description="iterations of k-means")] = 10

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize) -> None:
        if size.num_utterances < config.num_prototypes:
            raise ValueError(
                f"model.num_prototypes is {config.num_prototypes}, but the training lists have only "
                f"{size.num_utterances} utterance(s) to cluster: lower it."
            )
        super().__init__(config, encoder, size)
        dim, num_rows = self.projection_dim, size.num_utterances
        self.register_buffer("memory", torch.zeros(2, num_rows, dim, dtype=torch.float16))
        self.register_buffer("prototypes", torch.zeros(config.num_heads, config.num_prototypes, dim))
        self.register_buffer("labels", torch.full((config.num_heads, num_rows), -1))

    @torch.no_grad()
    def start_epoch(self, progress: Progress, corpus: Corpus) -> None:
        """Fill the memory before the first epoch, and cluster it before every epoch."""
        if progress.epoch == 0:
            self._fill_memory(corpus.embed(self, seconds=self.config.crop_seconds, clean=False))
        count, iterations = self.config.num_prototypes, self.config.kmeans_iterations
        for head in range(self.config.num_heads):
            clusters = spherical_kmeans(self.memory[head % 2], count, iterations, progress.generator(head))
            self.prototypes[head], self.labels[head] = clusters

    def _fill_memory(self, embeddings: Tensor) -> None:
        """Project the embeddings (N, D) of all utterances and store them as the rows of both views."""
        self.projector.eval()
        for start in range(0, len(embeddings), 4096):
            rows = self.projector(embeddings[start : start + 4096].to(self.memory.device))
            self.memory[:, start : start + 4096] = F.normalize(rows, dim=1).to(self.memory.dtype)
        self.projector.train(self.training)

    def loss_of(self, rows: Tensor, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss and write the rows into the memory; `accuracy` is that of the first head."""
        z = F.normalize(rows, dim=2).transpose(0, 1)  # (2, W*B, P)
        utterances = distributed.gather(batch["utterance"])
        labels = self.labels[:, utterances]
        loss = deepcluster_loss(z, self.prototypes, labels, self.config.temperature)
        with torch.no_grad():
            self.memory[:, utterances] = z.to(self.memory.dtype)
            best = (z @ self.prototypes[0].T).argmax(2)
            accuracy = (best == labels[0]).to(loss.dtype).mean()
        return StepOutput(loss, {"accuracy": accuracy})
