import pytest
import torch
from torch import Tensor

from sslsv.encoders.gated_residual import gated_residual
from sslsv.encoders.thin_resnet34 import SqueezeExcitation


def maps(dtype: torch.dtype, layout: torch.memory_format, shape=(3, 8, 5, 7)) -> list[Tensor]:
    """y, shortcut and a gradient."""
    generator = torch.Generator().manual_seed(50)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    drawn[1] += 8 * drawn[1].sign()  # no sum so near 0 that rounding decides what the ReLU lets through
    return [x.to(dtype).contiguous(memory_format=layout) for x in drawn]


def gates_of(dtype: torch.dtype) -> SqueezeExcitation:
    torch.manual_seed(51)
    return SqueezeExcitation(8, reduction=2).to(dtype)


def plain(y: Tensor, shortcut: Tensor, gates: SqueezeExcitation) -> Tensor:
    return torch.relu(y * gates(y) + shortcut)


def fused(y: Tensor, shortcut: Tensor, gates: SqueezeExcitation) -> Tensor:
    return gated_residual(y, shortcut, gates.squeeze, gates.excite)


def gradients_of(form, dtype: torch.dtype, layout: torch.memory_format, shape=(3, 8, 5, 7)) -> list[Tensor]:
    gates = gates_of(torch.promote_types(dtype, torch.float32))
    y, shortcut, gradient = maps(dtype, layout, shape)
    inputs = [y.requires_grad_(), shortcut.requires_grad_(), *gates.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = form(y, shortcut, gates)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gated_residual__equals_the_plain_form_and_its_gradients(layout: torch.memory_format) -> None:
    pairs = zip(
        gradients_of(fused, torch.float64, layout), gradients_of(plain, torch.float64, layout), strict=True
    )
    for value, expected in pairs:
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


def test_gated_residual__gradient_is_that_of_finite_differences() -> None:
    gates = gates_of(torch.float64)
    y, shortcut, _ = maps(torch.float64, torch.channels_last, (2, 8, 2, 3))
    inputs = (y.requires_grad_(), shortcut.requires_grad_())
    assert torch.autograd.gradcheck(lambda y, x: fused(y, x, gates), inputs)


def test_gated_residual__bfloat16_is_as_near_to_the_exact_gradient_as_the_plain_form() -> None:
    settings = (torch.channels_last, (64, 8, 20, 101))
    exact = gradients_of(plain, torch.float64, *settings)
    errors = [
        [float((value.double() - e).norm() / e.norm()) for value, e in zip(values, exact, strict=True)]
        for values in (gradients_of(form, torch.bfloat16, *settings) for form in (fused, plain))
    ]
    assert all(ours <= 1.2 * theirs for ours, theirs in zip(*errors, strict=True)), errors
