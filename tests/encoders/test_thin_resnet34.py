import itertools

import pytest
import torch
from torch import Tensor

from sslsv.encoders.fields import Features
from sslsv.encoders.thin_resnet34 import Block, SqueezeExcitation, ThinResNet34, gated_residual

SEED = {  # the settings in the head of thin_resnet34.py
    "features": Features(pre_emphasis=0.97),
    **{"width": 32, "stem": "3x3", "last_stride": 2, "pooling": "attentive_mean", "embedding_dim": 1024},
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def small(**settings) -> ThinResNet34:
    torch.manual_seed(42)
    return ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, **settings))


def waveforms(rows: int = 3, samples: int = 4800) -> torch.Tensor:
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(43))
    return (noise * 3000).to(torch.int16)


def test_thin_resnet34__default_is_fast_resnet34() -> None:
    model = ThinResNet34()
    assert count(model) == 1_437_078
    assert model.embedding_dim == 512
    assert model.features(torch.zeros(1, 32000)).shape == (1, 40, 201)
    frame_map = model.blocks(model.stem(torch.zeros(1, 1, 40, 201)))
    assert frame_map.shape == (1, 128, 5, 51)


def test_thin_resnet34__seed_is_the_wide_one() -> None:
    model = ThinResNet34(ThinResNet34.Config(**SEED))
    assert count(model) == 7_045_196
    assert model.blocks(model.stem(torch.zeros(1, 1, 40, 201))).shape == (1, 256, 5, 26)


def test_thin_resnet34__eighty_mels_with_statistics() -> None:
    config = ThinResNet34.Config(features=Features(num_mels=80), pooling="stats")
    assert count(ThinResNet34(config)) == 2_665_622


@pytest.mark.parametrize("stem", ["7x7", "3x3"])
@pytest.mark.parametrize("strides", itertools.product((1, 2), (1, 2)), ids=str)
@pytest.mark.parametrize("has_gates", [True, False])
def test_thin_resnet34__every_shape_embeds_any_length(stem, strides, has_gates) -> None:
    settings = {
        "stem_time_stride": strides[0],
        "last_stride": strides[1],
        "has_squeeze_excitation": has_gates,
    }
    model = small(stem=stem, pooling="asp", features=Features(num_mels=30), **settings).eval()
    assert any(isinstance(module, SqueezeExcitation) for module in model.modules()) == has_gates
    for samples in (300, 4800):
        assert model(waveforms(2, samples)).shape == (2, 16)


def test_thin_resnet34__channels_last_goes_through_all_blocks() -> None:
    model, maps = small().eval().to(memory_format=torch.channels_last), []
    model.blocks[3].register_forward_hook(lambda *arguments: maps.append(arguments[2]))
    model(waveforms())
    assert maps[0].is_contiguous(memory_format=torch.channels_last)


def test_thin_resnet34__embedding_batchnorm_centres_and_has_no_parameters() -> None:
    model = small(embedding_batchnorm=True)
    assert count(model) == count(small())
    assert model(waveforms(6)).mean(0).abs().max() < 1e-4


def test_block__compiled_training_equals_eager_training() -> None:
    torch.manual_seed(44)
    block = Block(4, 8, 2, has_squeeze_excitation=True).double()
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for eager, traced in zip(
        torch.autograd.grad(block(x).square().sum(), list(block.parameters())),
        torch.autograd.grad(compiled(x).square().sum(), list(block.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(traced, eager, rtol=1e-9, atol=1e-12)


def maps(dtype: torch.dtype, layout: torch.memory_format, shape=(3, 8, 5, 7)) -> list[Tensor]:
    """Return y, shortcut and a gradient."""
    generator = torch.Generator().manual_seed(50)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    drawn[1] += 8 * drawn[1].sign()  # keeps sums away from 0, where rounding would decide the ReLU's output
    return [x.to(dtype).contiguous(memory_format=layout) for x in drawn]


def plain(y: Tensor, shortcut: Tensor, gates: SqueezeExcitation) -> Tensor:
    return torch.relu(y * gates(y) + shortcut)


def fused(y: Tensor, shortcut: Tensor, gates: SqueezeExcitation) -> Tensor:
    return gated_residual(y, shortcut, gates.squeeze, gates.excite)


def gradients_of(form, dtype: torch.dtype, layout: torch.memory_format, shape=(3, 8, 5, 7)) -> list[Tensor]:
    torch.manual_seed(51)
    gates = SqueezeExcitation(8, reduction=2).to(torch.promote_types(dtype, torch.float32))
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


def test_gated_residual__bfloat16_is_as_near_to_the_exact_gradient_as_the_plain_form() -> None:
    settings = (torch.channels_last, (64, 8, 20, 101))
    exact = gradients_of(plain, torch.float64, *settings)
    errors = [
        [float((value.double() - e).norm() / e.norm()) for value, e in zip(values, exact, strict=True)]
        for values in (gradients_of(form, torch.bfloat16, *settings) for form in (fused, plain))
    ]
    assert all(ours <= 1.2 * theirs for ours, theirs in zip(*errors, strict=True)), errors
