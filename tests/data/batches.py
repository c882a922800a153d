"""Make the batches of a training without Ray."""

from collections.abc import Iterator

import torch

from sslsv.data.pipeline import Batch
from sslsv.data.stream import Plan, rows_of_rank
from sslsv.data.views import ViewMaker


def plain_batches(
    plan: Plan, maker: ViewMaker, first_step: int, last_step: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Yield the same batches as `train_batches`, bit for bit, made in this process."""
    for step in range(first_step, last_step):
        rows = rows_of_rank(plan.rows(step, step + 1), plan.batch_size, rank, world_size)
        yield {name: torch.from_numpy(column) for name, column in maker.make_batch(rows).items()}
