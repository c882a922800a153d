"""A queue of the newest rows of past batches, for methods that compare with more rows than a batch has."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """Hold the last `length` rows that were pushed, (length, dim); initially random unit vectors, or zeros.

    This is a ring buffer: the newest rows replace the oldest, in the order of the global batch. All workers
    must push the same rows, so callers gather first. The queue is then the same for any number of workers.
    """

    rows: Tensor
    next_row: Tensor

    def __init__(self, length: int, dim: int, *, is_random: bool = True) -> None:
        super().__init__()
        rows = F.normalize(torch.randn(length, dim), dim=1) if is_random else torch.zeros(length, dim)
        self.register_buffer("rows", rows)
        self.register_buffer("next_row", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> Tensor:
        """Replace the oldest rows by `rows` (N, dim), or by the last `length` of them; return their indices.

        Call this only after the backward pass of a loss that uses `self.rows`, which changes in place.
        """
        length = len(self.rows)
        rows = rows[-length:].to(self.rows.dtype) if length else rows[:0]
        indices = (self.next_row + torch.arange(len(rows), device=rows.device)) % max(length, 1)
        self.rows[indices] = rows
        self.next_row.add_(len(rows)).remainder_(max(length, 1))
        return indices
