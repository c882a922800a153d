import pytest
import torch
import torch.nn.functional as F

from sslsv.models.dino import DINO
from sslsv.models.heads import BottleneckHead, PrototypeModel, Prototypes, log_sum_exp
from sslsv.models.sdpn import SDPN
from tests.models.networks import LATER, batch, small


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("wide_dim", "published"), [(0, 22_622_464), (8192, 40_980_736)], ids=["dino", "rdino"]
)
def test_bottleneck_head__has_the_published_size_but_for_biases_before_batch_norms_and_gains(
    wide_dim: int, published: int
) -> None:
    with torch.device("meta"):
        total = count(BottleneckHead(512, (2048, 2048, 256), wide_dim)) + count(Prototypes(65536, 256))
    assert total == published - 65_536 - 2 * 2048


def test_bottleneck_head__gives_unit_vectors_and_begins_as_in_dino() -> None:
    torch.manual_seed(1)
    head = BottleneckHead(64, (128, 128, 16))
    rows = head(torch.randn(8, 64))
    assert torch.allclose(rows.norm(dim=1), torch.ones(8), atol=1e-6)
    assert head.bottleneck.bias.abs().max() == 0
    assert head.hidden[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_prototypes__are_directions_alone() -> None:
    prototypes = Prototypes(7, 4)
    (prototypes() * torch.randn(7, 4)).sum().backward()
    assert torch.allclose(prototypes().norm(dim=1), torch.ones(7), atol=1e-6)
    along = (prototypes.weight * prototypes.weight.grad).sum(1)
    assert along.abs().max() < 1e-6  # so a step never shortens the vectors


def test_log_sum_exp__equals_the_plain_one_and_its_gradients() -> None:
    torch.manual_seed(2)
    rows = F.normalize(torch.randn(3, 4, 5, dtype=torch.float64), dim=2).requires_grad_()
    prototypes = F.normalize(torch.randn(6, 5, dtype=torch.float64), dim=1).requires_grad_()
    plain = (rows @ prototypes.T / 0.1).logsumexp(2)
    assert torch.allclose(log_sum_exp(rows, prototypes, 0.1), plain, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: log_sum_exp(a, b, 0.1), (rows, prototypes))


@pytest.mark.parametrize("kind", [DINO, SDPN])
def test_prototype_model__each_tensors_gradient_is_clipped_by_itself(kind: type[PrototypeModel]) -> None:
    model = small(kind, head_dims=(12, 6), num_prototypes=10, tensor_clip_norm=0.02)
    model(batch(model), LATER).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.before_step(LATER)
    norms = [gradient.norm() for gradient in before.values()]
    assert min(norms) < 0.02 < max(norms)
    for name, gradient in before.items():
        expected = gradient * min(1.0, 0.02 / (gradient.norm().item() + 1e-6))
        assert torch.allclose(model.get_parameter(name).grad, expected, rtol=1e-5)
