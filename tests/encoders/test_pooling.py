import math

import pytest
import torch

from sslsv.encoders.pooling import POOLINGS, SelfAttentivePooling


def frames() -> torch.Tensor:
    return torch.randn(3, 4, 5, 9, generator=torch.Generator().manual_seed(41))


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__width_is_what_it_says_and_time_order_is_ignored(name: str) -> None:
    pooling = POOLINGS[name](4, 5).eval()
    pooled = pooling(frames())
    assert pooled.shape == (3, pooling.output_dim)
    torch.testing.assert_close(pooling(frames().flip(3)), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__constant_frames_give_their_value_and_finite_gradients(name: str) -> None:
    pooling = POOLINGS[name](4, 5)
    constant = torch.full((3, 4, 5, 9), 2.5, requires_grad=True)
    pooled = pooling(constant)
    means = pooled[:, : pooling.output_dim // 2] if name in ("stats", "asp") else pooled
    torch.testing.assert_close(means, torch.full_like(means, 2.5), rtol=1e-5, atol=1e-5)
    pooled.sum().backward()
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_statistics_pooling__is_mean_and_biased_deviation() -> None:
    x = frames()
    pooled = POOLINGS["stats"](4, 5)(x)
    expected = torch.cat([x.mean(3).flatten(1), x.std(3, correction=0).flatten(1)], 1)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_self_attentive_pooling__equals_the_sum_in_loops() -> None:
    x = frames()
    pooling = SelfAttentivePooling(4, 5)
    pooled = pooling(x)
    for b in range(3):
        vectors = [x[b, :, :, t].mean(1) for t in range(9)]
        scores = [math.exp((torch.tanh(pooling.hidden(v)) @ pooling.score).item()) for v in vectors]
        expected = sum(s * v for s, v in zip(scores, vectors, strict=True)) / sum(scores)
        torch.testing.assert_close(pooled[b], expected, rtol=1e-5, atol=1e-5)


def test_attentive_statistics__equal_weights_give_plain_statistics() -> None:
    x = frames()
    pooling = POOLINGS["asp"](4, 5).eval()
    for parameter in pooling.attention[3].parameters():
        parameter.data.zero_()
    torch.testing.assert_close(pooling(x), POOLINGS["stats"](4, 5)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__under_autocast_it_computes_in_float32(name: str) -> None:
    x = (frames() * 0.05 + 20).bfloat16()
    pooling = POOLINGS[name](4, 5).eval()
    expected = pooling(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooling(x)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected)
