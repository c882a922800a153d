"""Rows of several views: networks take them together, losses look at each view, or at pairs."""

import torch
from torch import Tensor

from sslsv.ops.layers import full_precision


def by_view(views: Tensor) -> Tensor:
    """Return views (B, V, ...) as rows (V * B, ...): all of the first view, then all of the second.

    One pass over them is faster than one for each view, and batch norm sees all views alike.
    """
    return views.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, num_views: int = 2) -> Tensor:
    """Return (B, V, D) of such rows (V * B, D), at least float32."""
    return torch.stack(full_precision(rows).chunk(num_views), 1)
