import copy
import math

import pytest
import torch

from sslsv.models.base import Progress
from sslsv.models.clustering import sinkhorn
from sslsv.models.dino import DINO, dino_loss, dino_targets, rdino_regularizer, warmed_up
from tests.encoders.peers import lightly_loss
from tests.models.networks import LATER, PROGRESS, batch, small, unit


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


@pytest.mark.parametrize(("momentum", "share"), [(0.9, 0.1), (0.0, 1.0)])
def test_dino__the_centre_moves_after_the_loss_to_the_mean_cosines_of_both_long_views(
    momentum: float, share: float
) -> None:
    dino, rows = model(centre_momentum=momentum), unit(2, 4, 6, seed=1).float()
    cosines = rows @ dino.teacher["prototypes"]().T
    targets = dino.targets(rows.transpose(0, 1), PROGRESS)
    dino.move_centre(rows)
    assert torch.allclose(targets, torch.softmax(cosines / 0.04, 2), atol=1e-6)
    assert torch.allclose(dino.centre, share * cosines.mean((0, 1)), atol=1e-7)


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


def test_dino__a_sole_prototype_which_teaches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="should be greater than or equal to 2"):
        model(num_prototypes=1)


def test_dino__prototypes_stand_still_in_the_first_epoch_and_each_gradient_is_clipped() -> None:
    for progress, is_frozen in ((PROGRESS, True), (LATER, False)):
        dino = model(tensor_clip_norm=1e-3)
        dino(batch(dino), progress).loss.backward()
        dino.before_step(progress)
        assert (dino.prototypes.weight.grad is None) == is_frozen
        norms = [p.grad.norm() for p in dino.parameters() if p.grad is not None]
        assert max(norms) <= 1.001e-3 and sum(norm > 0.9e-3 for norm in norms) > 5


def test_dino__embeds_with_the_teacher_which_gets_only_long_views() -> None:
    dino, seen = model(), []
    dino.teacher["encoder"].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    dino(batch(dino), PROGRESS)
    assert seen == [(8, 6400)]
    dino.eval()
    waveforms = torch.randn(2, 4800)
    assert torch.equal(dino.embed(waveforms), dino.teacher["encoder"](waveforms))
    assert dino.embedding_dim == 16


def test_rdino_regularizer__is_the_authors_sum_of_the_student() -> None:
    rows = unit(6, 9, seed=5)
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / 5
    off_diagonal = covariance - covariance.diag().diag()
    hinge = (1 - (rows.var(0) + 1e-4).sqrt()).clamp(min=0).mean()
    expected = 10 * hinge / 2 + off_diagonal.square().sum() / 100
    assert rdino_regularizer(rows, 100).item() == pytest.approx(expected.item(), rel=1e-9)


def test_dino__the_regularizer_is_added_with_a_weight_that_rises_by_epochs() -> None:
    dino = model(regularizer_weight=0.2, regularizer_dim=9)
    weights = [warmed_up(0.05, 0.2, 10, epoch) for epoch in (0, 3, 9, 12)]
    assert weights == pytest.approx([0.05, 0.1, 0.2, 0.2])
    assert warmed_up(0.04, 0.07, 0, 0) == 0.07  # no warm-up
    state = copy.deepcopy(dino.state_dict())
    first = dino(batch(dino), PROGRESS)
    dino.load_state_dict(state)
    last = dino(batch(dino), Progress(0, 10, 12, 20))
    rise = 0.15 * first.metrics["regularizer"].item()
    assert (last.loss - first.loss).item() == pytest.approx(rise, rel=1e-4)
