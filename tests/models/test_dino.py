import copy
import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.dino import DINO, dino_loss, dino_targets, rdino_regularizer, warmed_up
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=2)
LATER = Progress(step=5, total_steps=10, epoch=1, total_epochs=2)


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def small(**settings: object) -> DINO:
    torch.manual_seed(8)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    sizes = {"long_seconds": 0.4, "short_seconds": 0.3, "head_dims": (12, 6), "num_prototypes": 10}
    return DINO(DINO.Config(**{**sizes, **settings}), encoder)


def batch(seed: int, rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"long": (rows, 2, 6400), "short": (rows, 4, 4800)}
    return {k: torch.randint(-9000, 9000, s, generator=generator).to(torch.int16) for k, s in shapes.items()}


def test_dino_loss__is_the_sum_in_loops_without_pairs_of_one_view() -> None:
    rows, prototypes = unit(4, 3, 5, seed=1), unit(7, 5, seed=2)
    targets = torch.softmax(torch.randn(2, 3, 7, dtype=torch.float64), 2)
    expected = 0.0
    for j in range(2):
        for i in range(4):
            for row in range(3):
                logs = torch.log_softmax(prototypes @ rows[i, row] / 0.1, 0)
                expected -= float(targets[j, row] @ logs) / 3 / 6 if i != j else 0.0
    assert dino_loss(rows, prototypes, targets, 0.1).item() == pytest.approx(expected, rel=1e-12)


def test_dino_loss__value_gradient_and_centre_are_those_of_lightly_over_three_steps() -> None:
    theirs = lightly_loss("dino_loss", "DINOLoss")(output_dim=7)
    ours, prototypes = small(num_prototypes=7, head_dims=(5,)), unit(7, 5, seed=2).float()
    ours.teacher["prototypes"].weight.data.copy_(prototypes)
    for step in range(3):
        teacher, a = unit(2, 3, 5, seed=10 + step).float(), unit(6, 3, 5, seed=20 + step).float()
        b = a.clone().requires_grad_()
        a.requires_grad_()
        loss = dino_loss(a, prototypes, ours.targets(teacher, PROGRESS), 0.1)
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


def test_dino_loss__a_constant_student_costs_ln_k_and_random_unit_rows_a_little_more() -> None:
    targets = torch.full((2, 2, 65536), 1 / 65536)
    rows, prototypes = unit(3, 2, 256, seed=1).float(), unit(65536, 256, seed=2).float()
    constant = prototypes[:1].expand(65536, -1)
    assert dino_loss(rows, constant, targets, 0.1).item() == pytest.approx(math.log(65536), abs=1e-4)
    assert dino_loss(rows, prototypes, targets, 0.1).item() == pytest.approx(11.28, abs=0.03)


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
    model, rows = small(centre_momentum=momentum), unit(2, 4, 6, seed=1).float()
    cosines = rows @ model.teacher["prototypes"]().T
    targets = model.targets(rows, PROGRESS)
    model.move_centre(rows)
    assert torch.allclose(targets, torch.softmax(cosines / 0.04, 2), atol=1e-6)
    assert torch.allclose(model.centre, share * cosines.mean((0, 1)), atol=1e-7)


@pytest.mark.parametrize(
    ("centres", "temperature", "mean_entropy", "entropy"),
    [
        (False, 0.01, (0.0, 0.1), (0.0, 0.1)),
        (True, 1.0, (0.99, 1.0), (0.99, 1.0)),
        (True, 0.04, (0.8, 1.0), (0.0, 0.3)),
    ],
    ids=["only sharp: one prototype", "only centred: uniform", "both: neither"],
)
def test_dino__only_centring_and_sharpening_together_prevent_collapse(
    centres: bool, temperature: float, mean_entropy: tuple[float, float], entropy: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    student = torch.randn(16, 8, requires_grad=True)
    teacher, centre = student.detach().clone(), torch.zeros(12)
    prototypes = F.normalize(torch.randn(12, 8), dim=1)
    samples = 1 + 0.3 * torch.randn(64, 1, 16)  # alike, as the embeddings of new weights are
    for _ in range(200):
        views = (samples + 0.1 * torch.randn(64, 2, 16)).transpose(0, 1)
        rows = F.normalize(views @ teacher, dim=2)
        targets = dino_targets(rows, prototypes, centre, temperature)
        dino_loss(F.normalize(views @ student, dim=2), prototypes, targets, 0.1).backward()
        with torch.no_grad():
            centre.lerp_(prototypes @ rows.mean((0, 1)), 0.1 if centres else 0.0)
            student -= 0.5 * student.grad
            student.grad = None
            teacher.lerp_(student, 0.1)
    of_mean = torch.special.entr(targets.mean((0, 1))).sum().item() / math.log(12)
    of_rows = torch.special.entr(targets).sum(2).mean().item() / math.log(12)
    assert mean_entropy[0] - 1e-6 <= of_mean <= mean_entropy[1] + 1e-6
    assert entropy[0] - 1e-6 <= of_rows <= entropy[1] + 1e-6


def test_dino__prototypes_stand_still_in_the_first_epoch_and_each_gradient_is_clipped() -> None:
    for progress, is_frozen in ((PROGRESS, True), (LATER, False)):
        model = small(tensor_clip_norm=1e-3)
        model(batch(0), progress).loss.backward()
        model.before_step(progress)
        assert (model.prototypes.weight.grad is None) == is_frozen
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert max(norms) <= 1.001e-3 and sum(norm > 0.9e-3 for norm in norms) > 5


def test_dino__embeds_with_the_teacher_which_gets_no_gradient_and_only_long_views() -> None:
    model, seen = small(), []
    model.teacher["encoder"].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model(batch(0), PROGRESS).loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert seen == [(8, 6400)]
    model.eval()
    waveforms = torch.randn(2, 4800)
    assert torch.equal(model.embed(waveforms), model.teacher["encoder"](waveforms))
    assert model.embedding_dim == 16


def test_dino__a_resumed_run_takes_the_same_step() -> None:
    model, other = small(), small()
    for step in range(3):
        if step == 2:
            other.load_state_dict(copy.deepcopy(model.state_dict()))
        for each in (model, other) if step == 2 else (model,):
            each.zero_grad()
            each(batch(step), LATER).loss.backward()
            each.before_step(LATER)
            with torch.no_grad():
                for parameter in each.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
            each.after_step(LATER)
    states = model.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_rdino_regularizer__is_the_authors_sum_of_the_student() -> None:
    rows = unit(6, 9, seed=5)
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / 5
    off_diagonal = covariance - covariance.diag().diag()
    hinge = (1 - (rows.var(0) + 1e-4).sqrt()).clamp(min=0).mean()
    expected = 10 * hinge / 2 + off_diagonal.square().sum() / 100
    assert rdino_regularizer(rows, 100).item() == pytest.approx(expected.item(), rel=1e-9)


def test_dino__the_regularizer_is_added_with_a_weight_that_rises_by_epochs() -> None:
    model = small(regularizer_weight=0.2, regularizer_dim=9)
    weights = [model.penalty_weight(Progress(0, 1, epoch, 20)) for epoch in (0, 3, 9, 12)]
    assert weights == pytest.approx([0.05, 0.1, 0.2, 0.2])
    state = copy.deepcopy(model.state_dict())
    first = model(batch(0), PROGRESS)
    model.load_state_dict(state)
    last = model(batch(0), Progress(0, 10, 12, 20))
    rise = 0.15 * first.metrics["regularizer"].item()
    assert (last.loss - first.loss).item() == pytest.approx(rise, rel=1e-4)


def test_warmed_up__has_both_ends() -> None:
    assert [warmed_up(0.04, 0.07, 4, epoch) for epoch in range(6)] == pytest.approx(
        [0.04, 0.05, 0.06, 0.07, 0.07, 0.07]
    )
    assert warmed_up(0.04, 0.07, 0, 0) == 0.07
