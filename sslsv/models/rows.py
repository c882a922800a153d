"""Rows of several views: networks take them together, losses look at each view, or at pairs."""

import torch
from torch import Tensor

from sslsv.ops.layers import full_precision


def by_view(views: Tensor) -> Tensor:
    """Return views (B, count, ...) as rows (count * B, ...): all of the first view, then all of the second.

    One pass over them is faster than one for each view, and batch norm sees all views alike.
    """
    return views.transpose(0, 1).flatten(0, 1)


def in_views(rows: Tensor, num_samples: int) -> Tensor:
    """Return what was made of such rows, (count * B, D), as (count, B, D)."""
    return rows.view(-1, num_samples, rows.shape[1])


def paired(rows: Tensor) -> Tensor:
    """Return (B, 2, D) of rows (2B, D) in which all of view a come before all of view b; at least float32."""
    return torch.stack(full_precision(rows).chunk(2), 1)
