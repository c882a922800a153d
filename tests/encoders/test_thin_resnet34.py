import itertools

import pytest
import torch

from sslsv.encoders.fields import Features
from sslsv.encoders.thin_resnet34 import Block, SqueezeExcitation, ThinResNet34


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
    model = ThinResNet34(ThinResNet34.seed_config())
    assert count(model) == 7_045_196
    assert model.embedding_dim == 1024
    assert model.features.settings.pre_emphasis == 0.97
    assert model.blocks(model.stem(torch.zeros(1, 1, 40, 201))).shape == (1, 256, 5, 26)


def test_thin_resnet34__eighty_mels_with_statistics() -> None:
    config = ThinResNet34.Config(features=Features(num_mels=80), pooling="stats")
    assert count(ThinResNet34(config)) == 2_665_622


@pytest.mark.parametrize(
    ("stem", "stem_time_stride", "last_stride", "pooling"),
    [
        *itertools.product(("7x7", "3x3"), (1, 2), (1, 2), ("sap", "asp")),
        ("7x7", 1, 1, "mean"),
        ("3x3", 1, 2, "stats"),
    ],
)
def test_thin_resnet34__every_shape_embeds_any_length(stem, stem_time_stride, last_stride, pooling) -> None:
    strides = {"stem_time_stride": stem_time_stride, "last_stride": last_stride}
    model = small(stem=stem, **strides, pooling=pooling, features=Features(num_mels=30)).eval()
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


def test_thin_resnet34__without_gates_it_is_smaller() -> None:
    model = small(has_squeeze_excitation=False)
    assert not any(isinstance(module, SqueezeExcitation) for module in model.modules())
    assert model(waveforms()).shape == (3, 16)


def test_block__equals_its_parts_and_its_gradient_is_right() -> None:
    torch.manual_seed(44)
    block = Block(3, 8, 2, has_squeeze_excitation=True).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    y = block.norm2(block.conv2(block.norm1(torch.relu(block.conv1(x)))))
    gates = block.gates(y)
    assert gates.shape == (2, 8, 1, 1) and gates.min() > 0 and gates.max() < 1
    torch.testing.assert_close(block(x), torch.relu(y * gates + block.shortcut(x)), rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(block.eval(), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thin_resnet34__recomputed_activations_change_no_bit_and_keep_less(dtype: torch.dtype) -> None:
    results, kept = [], []
    for is_recomputed in (False, True):
        model = small().to(memory_format=torch.channels_last)
        model.recomputes_activations = is_recomputed
        sizes: list[int] = []

        def pack(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), autocast:
            embeddings = model(waveforms())
        kept.append(sum(sizes))
        embeddings.float().square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([embeddings, *gradients, *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] < kept[0] / 4


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
