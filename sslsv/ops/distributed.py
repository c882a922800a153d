"""Collectives for any number of workers (ranks in PyTorch); without a process group, each is the identity.

The backward passes of `gather` and `all_reduce_sum` *sum* gradients over ranks, and DDP averages, so that the
mean over ranks of the loss, and its gradient, equal those of one process on the concatenated batch.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the index of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Return whether this is rank 0, the process that writes files and prints."""
    return rank() == 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, is_global_loss: bool) -> Tensor:
        ctx.rows, ctx.is_global_loss = x.shape[0], is_global_loss
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = slice(rank() * ctx.rows, (rank() + 1) * ctx.rows)
        if ctx.is_global_loss:
            return gradient[own] * world_size(), None
        return all_reduce_sum(gradient)[own], None


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    backward = staticmethod(once_differentiable(forward))  # type: ignore[assignment]  # sums gradients too


def gather(x: Tensor, *, is_global_loss: bool = False) -> Tensor:
    """Concatenate the rows of all ranks: (B, ...) -> (W*B, ...), rank 0 first.

    Every rank must hold the same number of rows. The backward pass sums a row's gradient over all ranks, as
    explained above. Set `is_global_loss` if every rank computes the same loss of all rows. The
    gradients are then equal, so each rank multiplies its own by the number of ranks and sends nothing.
    """
    return _Gather.apply(x, is_global_loss) if world_size() > 1 else x


def own_rows(x: Tensor) -> Tensor:
    """Return this rank's rows (B, ...) of a gathered tensor (W*B, ...)."""
    return x.chunk(world_size())[rank()]


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the elementwise sum over ranks; differentiable, and `x` is not changed."""
    return _AllReduceSum.apply(x) if world_size() > 1 else x


def all_reduce_mean(x: Tensor) -> Tensor:
    """Return the elementwise mean over ranks; differentiable, and `x` is not changed."""
    return all_reduce_sum(x) / world_size()


def broadcast_object(value: T, source: int = 0) -> T:
    """Return on every rank the object that rank `source` passed; it must be picklable."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]  # type: ignore[no-any-return]


def gather_objects(value: T) -> list[T]:
    """Return on every rank the objects of all ranks, rank 0 first; they must be picklable."""
    if world_size() == 1:
        return [value]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value)
    return boxes


def share_buffers(module: nn.Module) -> None:
    """Broadcast the buffers of rank 0, which the checkpoint stores, to every rank.

    Without synchronised batch norm, they differ between ranks: `average_gradients` does not broadcast them.
    """
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
