import pytest
import torch
import torch.nn.functional as F

from sslsv.models.contrast import info_nce_loss
from sslsv.models.fields import MarginConfig
from sslsv.models.moco import MoCo, moco_logits
from tests.encoders.peers import lightly_loss
from tests.models.networks import PROGRESS, batch, each_view, shake, shift_positives, small, unit

Q, K, QUEUE = unit(5, 4, seed=1), unit(5, 4, seed=2), unit(7, 4, seed=3)


def moco_loss(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return InfoNCE as the method computes it: the own key is class 0 of the logits."""
    logits = moco_logits(q, k, queue, temperature)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def test_moco_loss__is_that_of_lightly_with_the_same_queue() -> None:
    loss = lightly_loss("ntx_ent_loss", "NTXentLoss")(temperature=0.2, memory_bank_size=(7, 4))
    loss.memory_bank.bank = QUEUE.float()
    loss.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.int64)
    theirs = loss(Q.float().requires_grad_(), K.float()).item()
    assert moco_loss(Q, K, QUEUE, 0.2).item() == pytest.approx(theirs, rel=1e-5)


def test_moco_loss__with_the_other_rows_keys_as_queue_is_info_nce() -> None:
    losses = [moco_loss(Q[[i]], K[[i]], K[torch.arange(5) != i], 0.2) for i in range(5)]
    assert torch.stack(losses).mean().item() == pytest.approx(info_nce_loss(Q, K, 0.2).item(), rel=1e-12)


def test_moco_loss__another_order_of_the_queue_changes_neither_value_nor_gradient() -> None:
    leaves = [Q.clone().requires_grad_() for _ in range(2)]
    losses = [
        moco_loss(q, K, QUEUE[order], 0.2)
        for q, order in zip(leaves, (slice(None), [3, 0, 6, 2, 5, 1, 4]), strict=True)
    ]
    gradients = [torch.autograd.grad(loss, q)[0] for loss, q in zip(losses, leaves, strict=True)]
    assert torch.allclose(*losses, rtol=1e-12) and torch.allclose(*gradients, rtol=1e-9)


@pytest.mark.parametrize("shift", [0, 1])
def test_moco__queries_meet_the_teachers_key_and_queue_of_the_other_view_and_own_keys_are_queued(
    shift,
) -> None:
    model = small(MoCo, queue_length=10).eval()  # without batch statistics, views can be embedded separately
    shake(model.teacher)
    shift_positives(model, shift)
    data = batch(model)
    q, k = (
        [F.normalize(encoder(view), dim=1) for view in each_view(model, data)]
        for encoder in (model.encoder, model.teacher["encoder"])
    )
    losses = [moco_loss(q[i], k[1 - i].roll(shift, 0), model.queues[1 - i].rows, 0.03) for i in (0, 1)]
    assert model(data, PROGRESS).loss.item() == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    model.after_step(PROGRESS)
    for queue, keys in zip(model.queues, k, strict=True):
        assert torch.allclose(queue.rows[:4], keys, atol=1e-6)


def test_moco__an_empty_queue_gives_nothing_to_learn_and_is_refused() -> None:
    q = Q.clone().requires_grad_()
    loss = moco_loss(q, K, QUEUE[:0], 0.03)
    loss.backward()
    assert loss.item() == 0 and q.grad.abs().max() == 0
    with pytest.raises(ValueError, match="should be greater than or equal to 1"):
        small(MoCo, queue_length=0)


def test_moco__queues_hold_the_newest_keys_after_each_step_and_not_before_its_end() -> None:
    model, kept = small(MoCo, queue_length=10), [[], []]
    for step in range(4):
        before = [queue.rows.clone() for queue in model.queues]
        model(batch(model, step), PROGRESS).loss.backward()
        for view in range(2):
            assert torch.equal(model.queues[view].rows, before[view])
            kept[view].append(model._new_keys[:, view])
        model.after_step(PROGRESS)
    for view, queue in enumerate(model.queues):
        assert torch.equal(queue.rows.roll(-int(queue.next_row), 0), torch.cat(kept[view])[-10:])
        assert torch.allclose(queue.rows.norm(dim=1), torch.ones(10), atol=1e-6)


@pytest.mark.parametrize("name", ["am", "aam", "sphereface", "magface", "adaface"])
def test_moco__no_margin_of_any_kind_is_the_loss_without_one(name: str) -> None:
    margin = MarginConfig(name=name, value=1.0 if name == "sphereface" else 0.0, lowest_value=0.0)
    models = small(MoCo, queue_length=10), small(MoCo, queue_length=10, margin=margin)
    first, second = (model(batch(model), PROGRESS).loss for model in models)
    assert torch.equal(first, second)


def test_moco__norms_of_anchors_are_those_before_normalisation() -> None:
    model = small(MoCo, queue_length=10, margin=MarginConfig(name="adaface"))
    model(batch(model), PROGRESS)
    model.after_step(PROGRESS)
    _, projections, _ = small(MoCo, queue_length=10).project_both(batch(model)["views"])
    norms = projections.norm(dim=1)
    expected = [0.99 * 20 + 0.01 * norms.mean().item(), 0.99 * 100 + 0.01 * norms.std().item()]
    assert model.margin.averages.tolist() == pytest.approx(expected)
