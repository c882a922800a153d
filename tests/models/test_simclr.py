import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.models import contrast
from sslsv.models.base import Progress
from sslsv.models.contrast import (
    accuracy,
    contrastive_loss,
    info_nce_loss,
    nt_xent,
    nt_xent_logits,
    view_logits,
)
from sslsv.models.simclr import SimCLR
from tests.encoders.peers import lightly_loss
from tests.models.networks import pair, small


@pytest.mark.parametrize("temperature", [0.03, 0.5])
def test_nt_xent__equals_lightly(temperature: float) -> None:
    z_a, z_b = (z.float() for z in pair(16, 32))
    expected = lightly_loss("ntx_ent_loss", "NTXentLoss")(temperature=temperature)(z_a, z_b)
    assert nt_xent(z_a, z_b, temperature)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_nt_xent__at_a_high_temperature_is_chance() -> None:
    assert nt_xent(*pair(256, 8), 1e9)[0].item() == pytest.approx(math.log(511))


@pytest.mark.parametrize("block_scores", [2**26, 4 * 16, 1])
def test_nt_xent__blocks_change_neither_loss_nor_gradient_nor_accuracy(
    block_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast, "BLOCK_SCORES", block_scores)
    leaves = [z.requires_grad_() for z in torch.randn(2, 8, 7, dtype=torch.float64).unbind(0)]
    loss, share = nt_xent(*leaves, 0.1)
    logits, positives = nt_xent_logits(*leaves, 0.1)
    whole = contrastive_loss(logits, positives)
    found, expected = (torch.autograd.grad(3 * each, leaves) for each in (loss, whole))
    assert torch.allclose(loss, whole, rtol=1e-12) and share == accuracy(logits, positives)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, expected, strict=True))


def test_simclr__accuracy_is_one_for_identical_views_and_zero_for_swapped_ones() -> None:
    model, z = small(SimCLR), torch.eye(4)
    assert model.loss(z, z).metrics["accuracy"] == 1
    assert model.loss(z, z.roll(1, 0)).metrics["accuracy"] == 0


def test_info_nce_loss__is_the_cross_entropy_of_cosines_with_the_other_view() -> None:
    z_a, z_b = pair(6, 5)
    cosines = F.normalize(z_a, dim=1) @ F.normalize(z_b, dim=1).T
    expected = F.cross_entropy(cosines / 0.1, torch.arange(6))
    assert info_nce_loss(z_a, z_b, 0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_contrastive_loss__of_many_views_is_the_mean_over_anchors_and_their_positives() -> None:
    generator = torch.Generator().manual_seed(2)
    anchors, keys = (torch.randn(3, n, 5, generator=generator, dtype=torch.float64) for n in (4, 2))
    total = 0.0
    for i in range(3):
        for view in range(4):
            cosines = F.cosine_similarity(anchors[i, view], keys.flatten(0, 1), dim=1) / 0.2
            total -= cosines.log_softmax(0).view(3, 2)[i].mean().item()
    assert contrastive_loss(*view_logits(anchors, keys, 0.2)).item() == pytest.approx(total / 12)


def test_simclr__many_views_are_contrasted_short_ones_with_long_ones() -> None:
    class Mean(torch.nn.Module):
        embedding_dim = 4

        def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
            return waveforms.float().unflatten(1, (4, -1)).mean(2)

    model = SimCLR(SimCLR.Config(form="multi_view", temperature=0.2), Mean())
    assert [tuple(group)[:3] for group in model.views] == [("long", 2, 4.0), ("short", 4, 2.0)]
    batch = {n: torch.randint(-99, 99, (3, c, 40)).to(torch.int16) for n, c in (("long", 2), ("short", 4))}
    keys, anchors = (model.encoder(batch[n].flatten(0, 1)).view(3, -1, 4) for n in ("long", "short"))
    output = model(batch, Progress(0, 1, 0, 1))
    assert output.loss.item() == pytest.approx(contrastive_loss(*view_logits(anchors, keys, 0.2)).item())
