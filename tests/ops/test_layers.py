import copy
from typing import Any

import pytest
import torch
from torch import nn

from sslsv.ops import layers as modules
from sslsv.ops.batchnorm import GlobalBatchNorm1d
from sslsv.ops.layers import IterNorm, frozen_running_statistics, projector, recomputed

torch.set_num_threads(1)


def test_projector__ends_linear_and_no_dims_are_the_identity() -> None:
    kinds = [type(layer) for layer in projector(8, (6, 5, 4))]
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*block, *block, nn.Linear]
    assert projector(8, (6, 5, 4))(torch.randn(3, 8)).shape == (3, 4)
    x = torch.randn(3, 8)
    assert torch.equal(projector(8, ())(x), x)


def test_iternorm__whitens_within_groups_only() -> None:
    generator = torch.Generator().manual_seed(8)
    mixing = torch.eye(8, dtype=torch.float64) + 0.3 * torch.randn(
        8, 8, generator=generator, dtype=torch.float64
    )
    x = torch.randn(4000, 8, generator=generator, dtype=torch.float64) @ mixing + 3
    y = IterNorm(8, num_groups=2, iterations=12).double()(x).detach()
    covariance = torch.cov(y.T, correction=0)
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(y.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-10)
    for group in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(covariance[group, group], identity, rtol=0, atol=1e-3)
    assert covariance[:4, 4:].abs().max() > 0.01


def test_iternorm__matrix_is_the_inverse_square_root_of_the_covariance() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x = x * torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    # Nine steps converge; from about twelve on, this iteration lets rounding grow.
    norm = IterNorm(4, num_groups=1, iterations=9, momentum=1.0).double()
    norm(x)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0) + 1e-5 * torch.eye(4))
    expected = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    torch.testing.assert_close(norm.running_whitening[0], expected, rtol=1e-8, atol=1e-8)


def test_iternorm__running_statistics_serve_single_rows() -> None:
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(10))
    norm = IterNorm(8, num_groups=2, momentum=1.0)
    trained = norm(x)
    norm.eval()
    torch.testing.assert_close(norm(x[:1]), trained[:1], rtol=1e-4, atol=1e-5)


def test_iternorm__gradient_is_that_of_finite_differences() -> None:
    x = torch.randn(
        6, 4, generator=torch.Generator().manual_seed(11), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(IterNorm(4, num_groups=2).double(), (x,))


def test_iternorm__groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="10 features into 4 equal groups"):
        IterNorm(10, num_groups=4)


def test_full_precision__keeps_float64_and_lifts_the_rest() -> None:
    assert modules.full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert modules.full_precision(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, GlobalBatchNorm1d])
def test_frozen_running_statistics__batch_statistics_are_used_and_averages_stay(kind: Any) -> None:
    norm = kind(3)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(13)) + 4
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(KeyError), frozen_running_statistics(norm):
        y = norm(x)
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(y, norm(x)) and not torch.equal(norm.running_mean, before["running_mean"])


def test_recomputed__a_batch_norm_of_gpus_goes_through_both_passes() -> None:
    norm, plain = nn.SyncBatchNorm(3), nn.BatchNorm1d(3)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(16), requires_grad=True)
    for module, y in ((norm, recomputed(norm, x)), (plain, plain(x))):
        (y**3).sum().backward()
        assert module.num_batches_tracked == 1
    assert torch.equal(norm.running_mean, plain.running_mean)
    assert torch.equal(norm.weight.grad, plain.weight.grad)


def test_recomputed__draws_the_same_and_moves_running_statistics_once() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    other = copy.deepcopy(module)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(14), requires_grad=True)
    results = []
    for network, run in ((module, module), (other, lambda x: recomputed(other, x))):
        torch.manual_seed(15)
        y = run(x)
        torch.rand(7)  # what others draw in between
        gradients = torch.autograd.grad(y.square().sum(), [x, *network.parameters()])
        results.append([y, *gradients, *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert module[1].num_batches_tracked == 1
