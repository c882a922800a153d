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


def test_swav__short_views_predict_codes_but_have_none() -> None:
    model = small(num_short=2)
    views = networks.batch(model)
    assert [(group.name, group.count) for group in model.views] == [("views", 2), ("short", 2)]
    output = model(views, LATE)
    output.loss.backward()
    model.after_step(LATE)
    other = small(num_short=2)
    changed = other(views | {"short": views["short"].flip(0)}, LATE)
    assert changed.loss != output.loss
    assert [len(queue.rows) for queue in model.queues] == [10, 10]


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


def test_swav__the_queue_is_filled_from_the_start_and_used_from_its_epoch() -> None:
    model, other, kept = small(), small(), []
    for queue in other.queues:
        queue.rows.copy_(F.normalize(torch.ones_like(queue.rows), dim=1))
    assert (
        model(networks.batch(model, 0), EARLY).loss.item()
        == other(networks.batch(model, 0), EARLY).loss.item()
    )
    assert (
        model(networks.batch(model, 0), LATE).loss.item() != other(networks.batch(model, 0), LATE).loss.item()
    )
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
