import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.models.base import Progress
from sslsv.models.clustering import sinkhorn
from sslsv.models.swav import SwAV, swav_loss
from tests.encoders.peers import lightly_loss
from tests.models import networks

EARLY, LATE = Progress(0, 10, 0, 3), Progress(8, 10, 2, 3)


def small(**settings: object) -> SwAV:
    sizes = {"num_prototypes": 12, "queue_length": 10, "queue_start_epoch": 1, "projector_dims": (16, 8)}
    return networks.small(SwAV, width=2, **sizes, **settings)


def both_scores(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(2, rows, 6, generator=generator) * 2 - 1


def test_swav_loss__of_many_views_with_a_queue_is_that_of_lightly() -> None:
    scores, queued = torch.cat([both_scores(8), both_scores(8).flip(1, 2)]), both_scores(5).flip(1)
    loss = lightly_loss("swav_loss", "SwaVLoss")(0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    expected = loss(list(scores[:2]), list(scores[2:]), list(queued))
    codes = torch.stack([sinkhorn(torch.cat([scores[i], queued[i]]), 0.05, 3)[:8] for i in (0, 1)])
    assert swav_loss(scores, codes, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_swav_loss__is_the_same_with_the_views_swapped() -> None:
    scores = both_scores(8)
    codes = torch.stack([sinkhorn(each, 0.05, 3) for each in scores])
    swapped = swav_loss(scores.flip(0), codes.flip(0), 0.1)
    assert swav_loss(scores, codes, 0.1).item() == pytest.approx(swapped.item(), rel=1e-6)


def test_swav__codes_carry_no_gradient_and_prototypes_have_one() -> None:
    model = small()
    model(networks.batch(model, 0), LATE).loss.backward()
    assert model.prototypes.grad.abs().max() > 0
    # A unit direction has no gradient along itself.
    along = (model.prototypes.grad * model.prototypes.detach()).sum(1)
    assert along.abs().max() < 1e-6 and not any(queue.rows.requires_grad for queue in model.queues)


@pytest.mark.parametrize(("shift", "progress"), [(0, EARLY), (0, LATE), (1, LATE)])
def test_swav__every_view_predicts_the_codes_of_the_other_long_ones_balanced_with_their_own_queue(
    shift: int, progress: Progress
) -> None:
    model = small(num_short=1, sinkhorn_epsilon=0.1, sinkhorn_iterations=2).eval()
    networks.shift_positives(model, shift)
    data = networks.batch(model)
    own = [F.normalize(model.projector(model.encoder(v)), dim=1) for v in networks.each_view(model, data)]
    prototypes = F.normalize(model.prototypes, dim=1).T
    z = [own[0], own[1].roll(shift, 0), own[2]]
    queued = [queue.rows if progress is LATE else queue.rows[:0] for queue in model.queues]
    codes = [sinkhorn(torch.cat([z[i], queued[i]]) @ prototypes, 0.1, 2)[:4] for i in (0, 1)]
    pairs = [(z[v] @ prototypes / 0.1, codes[i]) for i in (0, 1) for v in range(3) if v != i]
    expected = sum(F.cross_entropy(*each) for each in pairs) / 4
    assert model(data, progress).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    model.after_step(progress)
    for queue, rows in zip(model.queues, own, strict=False):
        assert torch.allclose(queue.rows[:4], rows, atol=1e-6)


def test_swav__queues_hold_the_newest_rows_from_the_first_step_on() -> None:
    model, kept = small(), []
    for step in range(3):
        model(networks.batch(model, step), EARLY)
        kept.append(model._new_rows)
        model.after_step(EARLY)
    for view, queue in enumerate(model.queues):
        assert torch.equal(queue.rows.roll(-int(queue.next_row), 0), torch.cat(kept, 1)[view][-10:])


@pytest.mark.parametrize(("epoch", "moves"), [(0, False), (1, True)])
def test_swav__prototypes_are_frozen_in_the_first_epoch(epoch: int, moves: bool) -> None:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before, progress = model.prototypes.detach().clone(), Progress(0, 10, epoch, 3)
    model(networks.batch(model, 0), progress).loss.backward()
    model.before_step(progress)
    optimizer.step()
    assert torch.equal(model.prototypes, before) != moves


def test_swav_loss__of_equal_scores_is_ln_k() -> None:
    scores = torch.full((3, 8, 6), 0.4)
    codes = torch.stack([sinkhorn(each, 0.05, 3) for each in scores[:2]])
    assert swav_loss(scores, codes, 0.1).item() == pytest.approx(math.log(6), rel=1e-6)
