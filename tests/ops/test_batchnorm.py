import copy
from typing import Any

import pytest
import torch
from torch import nn

from sslsv.ops.batchnorm import (
    GlobalBatchNorm1d,
    GlobalBatchNorm2d,
    _normalize_globally,
    synchronize_batchnorm,
)

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_global_batchnorm_function__equals_batch_norm_and_its_gradient(
    shape: tuple[int, ...], affine: bool
) -> None:
    generator = torch.Generator().manual_seed(6)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5).requires_grad_()
    reference = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, affine=affine).double()
    ours: Any = copy.deepcopy(reference)
    if affine:
        for norm in (reference, ours):
            norm.weight.data = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    expected = reference(x)
    y = _normalize_globally(ours, x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-12, atol=1e-12)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    parameters, other = list(reference.parameters()), list(ours.parameters())
    gradients = torch.autograd.grad((expected * weights).sum(), [x, *parameters])
    for gradient, value in zip(gradients, torch.autograd.grad((y * weights).sum(), [x, *other]), strict=True):
        torch.testing.assert_close(value, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(512, 4), (64, 4, 3, 5)], ids=str)
def test_global_batchnorm_function__bfloat16_uses_float32_statistics(shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(7)) * 0.1 + 30).bfloat16()
    norm: Any = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(4)
    y = _normalize_globally(norm, x)
    assert y.dtype == torch.bfloat16
    exact = nn.functional.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("affine", [True, False])
def test_global_batchnorm_function__bfloat16_gradient_is_close_to_the_exact_one(affine: bool) -> None:
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(64, 4, 3, 3, generator=generator).bfloat16().requires_grad_()
    weights = torch.randn(64, 4, 3, 3, generator=generator)
    norm: Any = nn.BatchNorm2d(4, affine=affine)
    (gradient,) = torch.autograd.grad((_normalize_globally(norm, x).float() * weights).sum(), [x])
    exact_x = x.detach().double().requires_grad_()
    exact_y = nn.functional.batch_norm(exact_x, None, None, training=True)
    (exact,) = torch.autograd.grad((exact_y * weights).sum(), [exact_x])
    assert gradient.dtype == torch.bfloat16
    assert (gradient.double() - exact).norm() < 0.01 * exact.norm()


def test_synchronize_batchnorm__keeps_tensors_keys_and_modes() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Flatten(),
        nn.Sequential(nn.BatchNorm1d(16, affine=False)),
    ).eval()
    state, weight = model.state_dict(), model[1].weight
    synchronized: Any = synchronize_batchnorm(model)
    assert type(synchronized[1]) is GlobalBatchNorm2d and type(synchronized[3][0]) is GlobalBatchNorm1d
    assert synchronized[1].weight is weight and synchronized[1].momentum == 0.3
    assert not synchronized[1].training and not synchronized[3][0].affine
    assert list(synchronized.state_dict()) == list(state)
    assert type(synchronize_batchnorm(nn.BatchNorm1d(3))) is GlobalBatchNorm1d


@pytest.mark.parametrize("channels", [4, 16, 24, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_global_batchnorm_function__channels_last_is_the_same_as_channels_first(
    channels: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(13)
    x = (torch.randn(6, channels, 4, 7, generator=generator) * 2 + 1).to(dtype)
    gradient = torch.randn(x.shape, generator=generator).to(dtype)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        norm: Any = nn.BatchNorm2d(channels)
        norm.weight.data = torch.linspace(0.5, 1.5, channels)
        rows = x.clone(memory_format=layout).requires_grad_()
        y = _normalize_globally(norm, rows)
        assert y.is_contiguous(memory_format=layout) and y.shape == x.shape
        # In place, as the encoder's ReLUs are.
        gradients = torch.autograd.grad(y.mul_(2), [rows, norm.weight, norm.bias], gradient)
        results.append([y, norm.running_mean, norm.running_var, *gradients])
    tolerance = 2e-5 if dtype == torch.float32 else 0.02
    for first, last in zip(*results, strict=True):
        torch.testing.assert_close(last, first, rtol=tolerance, atol=tolerance)
