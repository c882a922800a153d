"""Contrast anchors with keys: an anchor must be nearer to its positives than to all other keys (negatives).

Logits are cosines divided by the temperature, (anchors, keys). `positives` (anchors, R) holds the column
indices of each anchor's R positives.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslsv.models.base import by_view
from sslsv.models.clustering import BLOCK_SCORES


def nt_xent_logits(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return logits (2B, 2B) of all projections against all, -inf on the diagonal, and positives (2B, 1)."""
    z = _scaled(z_a, z_b, temperature)
    return (z @ z.T).fill_diagonal_(-torch.inf), _other_view(z)[:, None]


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return NT-Xent of projections (B, P), (B, P), and `accuracy`: SimCLR (arXiv 2002.05709), equation 1.

    All 2B projections are anchors, each with one positive and 2B - 2 negatives from both views. The loss is
    the mean over anchors, with natural logarithms. Rows are L2-normalised here. Some code, such as the first
    sslsv, takes negatives from the other view only, which gives a different value (`info_nce_loss`).
    """
    return _NTXent.apply(_scaled(z_a, z_b, temperature))  # type: ignore[no-any-return]


def _scaled(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    # Scaling before the product multiplies 2B * P values; scaling after it would multiply 2B * 2B.
    scaled: Tensor = F.normalize(torch.cat([z_a, z_b]), dim=1) * temperature**-0.5
    return scaled


def _other_view(z: Tensor) -> Tensor:
    return torch.arange(len(z), device=z.device).roll(len(z) // 2)


class _NTXent(torch.autograd.Function):
    """Compute loss and gradient together, in blocks; autograd would keep 1 GB copies for 8,192 pairs."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        positives, size = _other_view(z), max(BLOCK_SCORES // len(z), 1)
        total, num_correct, gradient = z.new_zeros(()), z.new_zeros(()), torch.zeros_like(z)
        for start in range(0, len(z), size):
            rows, columns = z[start : start + size], positives[start : start + size, None]
            logits = rows @ z.T
            logits.diagonal(start).fill_(-torch.inf)
            num_correct += (logits.argmax(1, keepdim=True) == columns).sum()
            partition = logits.logsumexp(1, keepdim=True)
            total += (partition - logits.gather(1, columns)).sum()
            if ctx.needs_input_grad[0]:
                shares = logits.sub_(partition).exp_()
                shares.scatter_add_(1, columns, shares.new_full(columns.shape, -1.0))
                gradient[start : start + size] += shares @ z
                gradient.addmm_(shares.T, rows)
        ctx.save_for_backward(gradient / len(z))
        accuracy = num_correct / len(z)
        ctx.mark_non_differentiable(accuracy)
        return total / len(z), accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        return loss_grad * gradient  # type: ignore[no-any-return]


def view_logits(anchors: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return logits (V*B, U*B) of anchors (B, V, P) against keys (B, U, P), and positives (V*B, U).

    Rows and columns are ordered view by view, as in `by_view`. An anchor's positives are the U keys of its
    own sample. Vectors are L2-normalised here.
    """
    (samples, num_anchors, _), num_keys = anchors.shape, keys.shape[1]
    rows, columns = (F.normalize(by_view(z), dim=1) * temperature**-0.5 for z in (anchors, keys))
    positives = torch.arange(num_keys * samples, device=keys.device).view(num_keys, samples).T
    return rows @ columns.T, positives.repeat(num_anchors, 1)


def info_nce_loss(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of anchors z_a (B, P) against keys z_b (B, P), one direction only, B - 1 negatives."""
    return contrastive_loss(*view_logits(z_a[:, None], z_b[:, None], temperature))


def contrastive_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """Return the mean of -log softmax over anchors and their positives; the softmax is over all keys."""
    return torch.stack([F.cross_entropy(logits, each) for each in positives.unbind(1)]).mean()


def accuracy(logits: Tensor, positives: Tensor) -> Tensor:
    """Return the share of anchors whose nearest key is a positive, detached."""
    nearest = logits.detach().argmax(1, keepdim=True)
    return (nearest == positives).any(1).to(logits.dtype).mean()
