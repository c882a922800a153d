import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.models.sdpn import SDPN, memax, sdpn_targets
from sslsv.models.terms import correlation_penalty, koleo
from tests.encoders.peers import lightly_loss, peer_module
from tests.models.networks import PROGRESS, batch, small, unit


def logs(rows: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(rows @ prototypes.T / 0.1, -1)


def cross_entropy(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * log_probabilities).sum(2).mean()


def model(**settings: object) -> SDPN:
    return small(SDPN, head_dims=(12, 6), num_prototypes=10, **settings)


def authors_loss(rows: torch.Tensor, teacher: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    loss = peer_module("speakerlab.loss.sdpn_loss").SDPNLoss(tau=0.1)
    return sum(loss(rows, teacher, prototypes, torch.eye(len(prototypes)).double(), T=0.25)[:2])


def loss_of_lightly(rows: torch.Tensor, teacher: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    return lightly_loss("msn_loss", "MSNLoss")(temperature=0.1)(rows, teacher, prototypes, 0.25)


@pytest.mark.parametrize("peer", [authors_loss, loss_of_lightly])
def test_sdpn_loss__cross_entropy_and_memax_and_their_gradients_are_those_of(peer) -> None:
    prototypes, teacher = unit(7, 5, seed=1), unit(6, 5, seed=2)
    ours = unit(4, 6, 5, seed=3).requires_grad_()
    theirs = ours.detach().clone().flatten(0, 1).requires_grad_()
    predicted = logs(F.normalize(ours, dim=2), prototypes)
    loss = cross_entropy(predicted, sdpn_targets(teacher, prototypes, 0.025, 3))
    loss = loss + memax(predicted.exp().mean((0, 1)))
    expected = peer(theirs, teacher, prototypes)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(ours.grad.flatten(0, 1), theirs.grad, atol=1e-9)


def test_sdpn_loss__one_prototype_leaves_nothing_to_learn() -> None:
    rows, prototypes = unit(4, 6, 5, seed=3), unit(1, 5, seed=1)
    targets = sdpn_targets(unit(6, 5, seed=2), prototypes, 0.025, 3)
    assert cross_entropy(logs(rows, prototypes), targets).item() == 0


def test_sdpn__equal_prototypes_cost_ln_k() -> None:
    sdpn = model(koleo_weight=0.0)
    torch.nn.init.ones_(sdpn.prototypes.weight)
    assert sdpn(batch(sdpn), PROGRESS).loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_sdpn_loss__a_rotation_of_everything_changes_nothing() -> None:
    rows, teacher, prototypes = unit(4, 6, 5, seed=3), unit(6, 5, seed=2), unit(7, 5, seed=1)
    rotation = torch.linalg.qr(unit(5, 5, seed=4))[0]
    values = [
        cross_entropy(
            logs(rows @ turn, prototypes @ turn), sdpn_targets(teacher @ turn, prototypes @ turn, 0.025, 3)
        )
        for turn in (torch.eye(5, dtype=torch.float64), rotation)
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-9)


def test_sdpn_targets__a_prototype_whose_shares_all_underflow_leaves_them_finite() -> None:
    teacher, prototypes = torch.tensor([[1.0, 0.0]]).repeat(3, 1), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    targets = sdpn_targets(teacher, prototypes, 0.001, 3)
    assert torch.isfinite(targets).all() and torch.allclose(targets.sum(1), torch.ones(3))


def test_memax__is_zero_for_uniform_and_ln_k_for_one_prototype() -> None:
    one = F.one_hot(torch.tensor(3), 8).double().requires_grad_()
    value = memax(one)
    value.backward()
    assert memax(torch.full((8,), 1 / 8, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    assert value.item() == pytest.approx(math.log(8)) and torch.isfinite(one.grad).all()


@pytest.mark.parametrize(
    ("settings", "term", "weight"),
    [({}, koleo, 0.1), ({"koleo_weight": 0.0, "correlation_weight": 0.3}, correlation_penalty, 0.3)],
)
def test_sdpn__loss_is_the_sum_of_its_terms_with_koleo_of_each_views_embeddings(
    settings, term, weight
) -> None:
    sdpn = model(**settings).eval()
    data = batch(sdpn)
    views = [sdpn.encoder(data["short"][:, i]) for i in range(4)]
    prototypes = sdpn.prototypes()
    predicted = logs(torch.stack([sdpn.head(view) for view in views]), prototypes)
    teacher = sdpn.teacher["head"](sdpn.teacher["encoder"](data["long"][:, 0]))
    expected = cross_entropy(predicted, sdpn_targets(teacher, prototypes, 0.025, 3))
    expected = expected + memax(predicted.exp().mean((0, 1))) + weight * sum(map(term, views))
    assert sdpn(data, PROGRESS).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_sdpn__the_teacher_hears_the_clean_long_view_and_the_student_the_short_ones() -> None:
    sdpn, seen = model(), []
    for encoder in (sdpn.encoder, sdpn.teacher["encoder"]):
        encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    sdpn(batch(sdpn), PROGRESS)
    assert seen == [(16, 4800), (4, 6400)]
    assert [group.is_clean for group in sdpn.views] == [True, False]
    assert sdpn.embedder == "teacher.encoder" and "prototypes" not in sdpn.teacher


def test_sdpn__prototypes_do_not_decay_and_have_a_rate_of_their_own() -> None:
    sdpn = model(prototype_rate_scale=4.0)
    *others, last = sdpn.parameter_groups()
    assert last == {"params": [sdpn.prototypes.weight], "decays": False, "rate_scale": 4.0}
    assert all(group.get("rate_scale", 1.0) == 1.0 for group in others)
