import copy
from typing import Any

import pytest
import torch
from torch import nn

from sslsv.ops.batchnorm import GlobalBatchNorm
from sslsv.ops.layers import frozen_running_statistics, projector, recomputed


def test_projector__ends_linear_and_no_dims_are_the_identity() -> None:
    kinds = [type(layer) for layer in projector(8, (6, 5, 4))]
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*block, *block, nn.Linear]
    assert projector(8, (6, 5, 4))(torch.randn(3, 8)).shape == (3, 4)
    x = torch.randn(3, 8)
    assert torch.equal(projector(8, ())(x), x)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, GlobalBatchNorm])
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
        torch.rand(7)  # other code draws in between
        gradients = torch.autograd.grad(y.square().sum(), [x, *network.parameters()])
        results.append([y, *gradients, *network.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert module[1].num_batches_tracked == 1
