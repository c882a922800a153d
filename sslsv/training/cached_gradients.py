"""Compute the gradient of a large batch from chunks that fit the memory, in two passes.

First every chunk without graph, then the loss of all projections together and its gradient with respect to
them, then every chunk once more, with graph, against its part of that gradient. So the loss sees the whole
batch, negatives and covariances included, and gradients add up to those of the undivided batch.
Source: GradCache, Gao et al., RepL4NLP 2021 (arXiv 2101.06983).

Batch norms see a chunk as they see a worker's share without synchronisation: a step is that of as many
workers as there are chunks, loss, gradients, draws and running statistics (the first chunk's) alike.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sslsv.models.base import Progress, StepOutput
from sslsv.models.two_view import TwoViewModel
from sslsv.ops.layers import frozen_running_statistics


class ChunkReplay(nn.Module):
    """Make the second pass of a chunk a module, so that DDP can watch it."""

    def __init__(self, model: TwoViewModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        views: Tensor,
        gradient: Tensor,
        embedding_gradient: Tensor | None,
        whitening_gradients: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return a surrogate loss: its value is meaningless, its gradient is that of the loss.

        `gradient` is the loss's with respect to this chunk's projections, `embedding_gradient` that with
        respect to its embeddings, None without regularizers; `whitening_gradients`, given once a step, are
        those of the layers that come after the projections.
        """
        embeddings, projections = self.model.project(views)
        sums = [(projections * gradient).sum()]
        if embedding_gradient is not None:
            sums.append((embeddings * embedding_gradient).sum())
        parameters = self.model.whitening.parameters() if whitening_gradients else ()
        sums += [(p * g).sum() for p, g in zip(parameters, whitening_gradients, strict=True)]
        return torch.stack(sums).sum()


def backward_in_chunks(
    network: nn.Module,
    batch: dict[str, Tensor],
    progress: Progress,
    chunk_size: int,
    *,
    scaler: torch.amp.GradScaler,
    autocast: Callable[[], AbstractContextManager[None]],
    seed_chunk: Callable[[int], None],
) -> StepOutput:
    """Add the (scaled) gradient of this worker's batch to the parameters' `grad`; the loss is detached.

    `network` is a `ChunkReplay`, or DDP of one, which averages over workers with the last chunk. `seed_chunk`
    seeds the draws of chunk i: it is called before both passes, so that both draw the same.
    """
    replay = network.module if isinstance(network, DistributedDataParallel) else network
    model: TwoViewModel = replay.model  # type: ignore[assignment]
    chunks = torch.split(batch["views"], chunk_size)
    parts = []
    for i, chunk in enumerate(chunks):
        seed_chunk(i)
        statistics = frozen_running_statistics(model) if i else contextlib.nullcontext()
        # Each pass has its own autocast, whose cache would hold weights that were cast without a graph.
        with torch.no_grad(), autocast(), statistics:
            parts.append(model.project(chunk))
    embeddings, projections = (torch.cat(column) for column in zip(*parts, strict=True))
    wanted = [embeddings.requires_grad_(), projections.requires_grad_(), *model.whitening.parameters()]
    output = model.compare(embeddings, projections, batch, progress)
    # Embeddings take part only through regularizers; without any, their gradient is None.
    gradients = torch.autograd.grad(scaler.scale(output.loss), wanted, allow_unused=True)
    of_embeddings, of_projections, *of_whitening = gradients
    for i, chunk in enumerate(chunks):
        rows = slice(i * chunk_size, (i + 1) * chunk_size)
        of_rows = None if of_embeddings is None else of_embeddings[rows]
        seed_chunk(i)
        is_last = i == len(chunks) - 1
        averaging: AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(network, DistributedDataParallel) and not is_last:
            averaging = network.no_sync()  # Workers average once a step, with the last chunk.
        with averaging, frozen_running_statistics(model):
            with autocast():
                total = network(chunk, of_projections[rows], of_rows, of_whitening if is_last else ())
            total.backward()
    return StepOutput(output.loss.detach(), output.metrics)
