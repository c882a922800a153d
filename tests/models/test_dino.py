import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sslsv.models.base import Progress
from sslsv.models.clustering import sinkhorn
from sslsv.models.dino import DINO, dino_loss, dino_targets, rdino_regularizer, warmed_up
from tests.encoders.peers import lightly_loss, peer_module
from tests.models.networks import (
    LATER,
    PROGRESS,
    batch,
    each_view,
    normal,
    shake,
    shift_positives,
    small,
    unit,
)


def model(**settings: object) -> DINO:
    return small(DINO, **{"head_dims": (12, 6), "num_prototypes": 10, **settings})


def test_dino_loss__value_gradient_and_centre_are_those_of_lightly_over_three_steps() -> None:
    theirs = lightly_loss("dino_loss", "DINOLoss")(output_dim=7)
    ours, prototypes = model(num_prototypes=7, head_dims=(5,)), unit(7, 5, seed=2).float()
    ours.teacher["prototypes"].weight.data.copy_(prototypes)
    for step in range(3):
        teacher, a = unit(2, 3, 5, seed=10 + step).float(), unit(6, 3, 5, seed=20 + step).float()
        b = a.clone().requires_grad_()
        a.requires_grad_()
        loss = dino_loss(a, prototypes, ours.targets(teacher.transpose(0, 1), PROGRESS), 0.1)
        ours.move_centre(teacher)
        expected = theirs(list(teacher @ prototypes.T), list(b @ prototypes.T))
        loss.backward()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
        assert torch.allclose(ours.centre, theirs.center[0, 0], atol=1e-7)


def test_dino_loss__a_teacher_that_is_the_student_costs_its_entropy() -> None:
    rows, prototypes = unit(1, 3, 5, seed=1).expand(6, -1, -1), unit(7, 5, seed=2)
    targets = dino_targets(rows[:2], prototypes, torch.zeros(7, dtype=torch.float64), 0.1)
    entropy = torch.special.entr(targets).sum(2).mean()
    assert dino_loss(rows, prototypes, targets, 0.1).item() == pytest.approx(entropy.item(), rel=1e-12)


def test_dino_loss__a_uniform_teacher_and_a_constant_student_cost_ln_k() -> None:
    rows, constant = unit(3, 2, 8, seed=1), unit(1, 8, seed=2).expand(500, -1)
    targets = torch.full((2, 2, 500), 1 / 500, dtype=torch.float64)
    assert dino_loss(rows, constant, targets, 0.1).item() == pytest.approx(math.log(500))


def test_dino_loss__keeps_no_logits_of_the_student() -> None:
    rows, prototypes = unit(6, 4, 8, seed=1).requires_grad_(), unit(5000, 8, seed=2).requires_grad_()
    targets, kept = torch.full((2, 4, 5000), 1 / 5000, dtype=torch.float64), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        dino_loss(rows, prototypes, targets, 0.1)
    assert sum(kept.values()) < targets.numel() + prototypes.numel() + 4 * 5000


def test_dino_targets__a_shift_of_cosines_and_centre_changes_nothing() -> None:
    rows, prototypes, centre = unit(2, 3, 5, seed=1), unit(7, 5, seed=2), unit(7, seed=3)
    shift = 10 * unit(7, seed=4)
    shifted = torch.cat([prototypes, shift[:, None]], 1)
    longer = torch.cat([rows, torch.ones(2, 3, 1, dtype=torch.float64)], 2)
    expected = dino_targets(rows, prototypes, centre, 0.04)
    assert torch.allclose(dino_targets(longer, shifted, centre + shift, 0.04), expected, rtol=1e-9)


@pytest.mark.parametrize(("shift", "weight"), [(0, 0.0), (1, 0.2)], ids=["dino", "rdino with ssps"])
def test_dino__every_view_predicts_the_centred_targets_of_the_other_long_ones_then_the_centre_moves(
    shift: int, weight: float
) -> None:
    rises = {"first_teacher_temperature": 0.02, "temperature_warmup_epochs": 3, "centre_momentum": 0.7}
    dino = model(**rises, regularizer_weight=weight, regularizer_dim=9).eval()
    shake(dino.teacher)
    if weight:
        dino.head.hidden[-1].weight.data *= 1000  # otherwise the regularised units would be almost 0
    shift_positives(dino, shift)
    dino.centre.copy_(0.3 * normal(10))
    data, old = batch(dino), dino.centre.clone()
    views = [dino.encoder(view) for view in each_view(dino, data)]
    students = [dino.head(view) @ dino.prototypes().T for view in views]
    head, prototypes = dino.teacher["head"], dino.teacher["prototypes"]()
    cosines = [head(dino.teacher["encoder"](view)) @ prototypes.T for view in data["long"].unbind(1)]
    targets = [((each.roll(shift, 0) - old) / 0.03).softmax(1) for each in cosines]  # 0.03 in epoch 1
    pairs = [(students[v] / 0.1, targets[g]) for g in (0, 1) for v in range(6) if v != g]
    expected = sum(F.cross_entropy(*each) for each in pairs) / 10
    if weight:
        wide = torch.stack([dino.head.hidden(view) for view in views[:2]]).mean(0)
        expected = expected + warmed_up(0.05, 0.2, 10, 1) * rdino_regularizer(wide, 10)
    assert dino(data, LATER).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(dino.centre, 0.7 * old + 0.3 * torch.stack(cosines).mean((0, 1)), atol=1e-6)


def test_dino__balanced_targets_use_all_prototypes_alike_over_both_long_views() -> None:
    dino, rows = model(balance_iterations=1000), unit(8, 2, 6, seed=1).float()
    targets = dino.targets(rows, PROGRESS)
    cosines = rows.flatten(0, 1) @ dino.teacher["prototypes"]().T
    expected = sinkhorn(cosines, 0.04, 1000).unflatten(0, (8, 2)).transpose(0, 1)
    assert torch.equal(targets, expected)
    assert torch.allclose(targets.sum((0, 1)), torch.full((10,), 1.6), atol=1e-3)
    assert torch.allclose(targets.sum(2), torch.ones(2, 8))


def test_dino__balanced_targets_leave_the_centre_alone_and_refuse_its_momentum() -> None:
    dino = model(balance_iterations=3)
    dino(batch(dino), PROGRESS)
    assert not dino.centre.any()
    with pytest.raises(ValueError, match="centre_momentum is 0.5, but balanced targets have no centre"):
        model(balance_iterations=3, centre_momentum=0.5)


class Affine(torch.nn.Linear):
    """Embed 8 numbers by an affine map."""

    embedding_dim = 8


@pytest.mark.parametrize(
    ("temperature", "momentum", "entropy"),
    [(0.001, 1.0, 0.0), (0.1, 0.5, math.log(8))],
    ids=["sharp without centre: one prototype", "centred but not sharp: uniform"],
)
def test_dino__either_half_of_centring_and_sharpening_collapses(
    temperature: float, momentum: float, entropy: float
) -> None:
    torch.manual_seed(1)
    kept = {"first_teacher_temperature": temperature, "teacher_temperature": temperature}
    config = DINO.Config(
        **kept,
        head_dims=(16, 4),
        num_prototypes=8,
        num_short=1,
        centre_momentum=momentum,
        teacher_momentum=0.5,
    )
    dino, size = DINO(config, Affine(8, 8)), (64, 2, 8)
    optimizer = torch.optim.Adam([each for each in dino.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(100):
        shared = torch.randn(64, 1, 8)
        data = {"long": shared + torch.randn(size), "short": shared + torch.randn(64, 1, 8)}
        optimizer.zero_grad()
        dino(data, PROGRESS).loss.backward()
        optimizer.step()
        dino.after_step(PROGRESS)
    with torch.no_grad():
        rows = dino.teacher["head"](dino.teacher["encoder"](data["long"].flatten(0, 1))).unflatten(0, (64, 2))
        targets = dino.targets(rows, PROGRESS)
    assert torch.special.entr(targets).sum(2).mean() == pytest.approx(entropy, abs=0.05)
    assert torch.special.entr(targets.mean((0, 1))).sum() == pytest.approx(entropy, abs=0.05)


def test_dino__a_sole_prototype_which_teaches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="should be greater than or equal to 2"):
        model(num_prototypes=1)


@pytest.mark.parametrize(("progress", "is_frozen"), [(PROGRESS, True), (LATER, False)])
def test_dino__prototypes_stand_still_in_the_first_epoch(progress: Progress, is_frozen: bool) -> None:
    dino = model()
    dino(batch(dino), progress).loss.backward()
    dino.before_step(progress)
    assert (dino.prototypes.weight.grad is None) == is_frozen


def test_dino__embeds_with_the_teacher_which_gets_only_long_views() -> None:
    dino, seen = model(), []
    dino.teacher["encoder"].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    dino(batch(dino), PROGRESS)
    assert seen == [(8, 6400)]
    dino.eval()
    waveforms = torch.randn(2, 4800)
    assert torch.equal(dino.embed(waveforms), dino.teacher["encoder"](waveforms))
    assert dino.embedding_dim == 16


def test_rdino_regularizer__is_that_of_its_authors_but_for_the_teachers_constant_terms(monkeypatch) -> None:
    module = peer_module("speakerlab.loss.dino_loss")
    monkeypatch.setattr(module, "FullGatherLayer", SimpleNamespace(apply=lambda rows: (rows,)))
    ours, theirs = (unit(2, 6, 9, seed=5).requires_grad_() for _ in range(2))
    value = rdino_regularizer(ours.mean(0), 100)
    loss = module.RegLoss(100, 10.0, 1.0, 6)(theirs.detach().flatten(0, 1), theirs.flatten(0, 1))
    value.backward()
    loss.backward()
    assert 2 * value.item() == pytest.approx(loss.item(), rel=1e-9)  # their teacher gets the student's rows
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9)


def test_warmed_up__changes_in_equal_steps_of_epochs() -> None:
    weights = [warmed_up(0.05, 0.2, 10, epoch) for epoch in (0, 3, 9, 12)]
    assert weights == pytest.approx([0.05, 0.1, 0.2, 0.2])
    assert warmed_up(0.04, 0.07, 0, 0) == 0.07  # no warm-up
