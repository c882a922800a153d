import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslsv.ops.batchnorm import GlobalBatchNorm, synchronize_batchnorm


def both_kinds(channels: int, dims: int, **options: Any) -> tuple[Any, Any]:
    """Return PyTorch's batch norm and ours, with the same weights."""
    plain = (nn.BatchNorm2d if dims == 4 else nn.BatchNorm1d)(channels, **options)
    if plain.affine:
        plain.weight.data = torch.linspace(-0.5, 1.5, channels)
        plain.bias.data = torch.linspace(1, 2, channels)
    return plain, synchronize_batchnorm(copy.deepcopy(plain))


def outcome(y: Tensor, weights: Tensor, x: Tensor, norm: nn.Module) -> list[Tensor]:
    """Return the output, gradients of input and parameters, and running statistics."""
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *norm.parameters()]), *norm.buffers()]


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("options", [{}, {"affine": False}], ids=str)
def test_normalize_globally__alone_equals_batch_norm(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(6)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5).requires_grad_()
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    plain, ours = both_kinds(3, len(shape), **options)
    expected = outcome(plain.double()(x), weights, x, plain)
    found = outcome(ours.double().normalize_globally(x), weights, x, ours)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_normalize_globally__bfloat16_uses_float32_statistics(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(64, 4, 3, 5, generator=generator) * 0.1 + 30).bfloat16()
    x = x.contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(x.shape, generator=generator)
    plain, ours = both_kinds(4, 4)
    exact_x = x.detach().double().requires_grad_()
    exact = outcome(plain.double()(exact_x), weights, exact_x, plain)
    y = ours.normalize_globally(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=layout)
    found = outcome(y, weights, x, ours)
    for value, expected in zip(found, exact, strict=True):
        assert (value.double() - expected).norm() < 0.01 * expected.double().norm()


def test_synchronize_batchnorm__keeps_tensors_keys_and_modes() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Flatten(),
        nn.Sequential(nn.BatchNorm1d(16, affine=False)),
    ).eval()
    state, weight = model.state_dict(), model[1].weight
    synchronized: Any = synchronize_batchnorm(model)
    assert type(synchronized[1]) is GlobalBatchNorm and type(synchronized[3][0]) is GlobalBatchNorm
    assert synchronized[1].weight is weight and synchronized[1].momentum == 0.3
    assert not synchronized[1].training and not synchronized[3][0].affine
    assert list(synchronized.state_dict()) == list(state)
