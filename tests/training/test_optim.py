import pytest
import torch
from torch import Tensor, nn

from sslsv.config import OptimizerConfig
from sslsv.models.base import decay_groups
from sslsv.training.optim import LARS, build_optimizer, clip_gradients

NAMES = ["adam", "adamw", "sgd", "lars"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))


def train_one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(5, 1, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer__moves_every_parameter(name: str) -> None:
    model = network()
    before = [p.clone() for p in model.parameters()]
    optimizer = build_optimizer(
        decay_groups(model.parameters()), OptimizerConfig(name=name, learning_rate=0.1)
    )  # type: ignore[arg-type]
    train_one_step(model, optimizer)
    # The convolution's bias stands before a batch norm: its gradient is zero but for rounding.
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert [m for index, m in enumerate(moved) if index != 1] == [True] * 5


@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer__weight_decay_leaves_biases_and_norms_alone(name: str) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.1)  # type: ignore[arg-type]
    build_optimizer(decay_groups(model.parameters()), config).step()
    for parameter in model.parameters():
        is_decayed = bool((parameter < 1).all())
        assert is_decayed == (parameter.ndim > 1)


def test_build_optimizer__ignores_frozen_parameters_and_refuses_to_have_none() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(decay_groups(model.parameters()), OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(decay_groups(nn.ReLU().parameters()), OptimizerConfig())


def slow_lars(weight: Tensor, gradients: list[Tensor], lr: float, decay: float, momentum: float) -> Tensor:
    velocity = [0.0] * weight.numel()
    w = weight.flatten().tolist()
    for gradient in gradients:
        update = [g + decay * x for g, x in zip(gradient.flatten().tolist(), w, strict=True)]
        w_norm, u_norm = sum(x * x for x in w) ** 0.5, sum(u * u for u in update) ** 0.5
        trust = 1e-3 * w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0
        velocity = [momentum * v + trust * u for v, u in zip(velocity, update, strict=True)]
        w = [x - lr * v for x, v in zip(w, velocity, strict=True)]
    return torch.tensor(w, dtype=weight.dtype).view_as(weight)


@pytest.mark.parametrize("start", ["random", "zeros"])
def test_lars__equals_the_paper_written_out(start: str) -> None:
    weight = torch.randn(3, 4, dtype=torch.float64) * (start == "random")
    gradients = [torch.randn(3, 4, dtype=torch.float64) for _ in range(4)]
    parameter = nn.Parameter(weight.clone())
    optimizer = LARS([parameter], lr=0.5, momentum=0.9, weight_decay=0.01)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        state = optimizer.state_dict()
        optimizer = LARS([parameter], lr=0.0)
        optimizer.load_state_dict(state)  # as a restart does
    expected = slow_lars(weight, gradients, lr=0.5, decay=0.01, momentum=0.9)
    torch.testing.assert_close(parameter.data, expected, rtol=1e-12, atol=1e-15)


def test_lars__treats_biases_as_plain_momentum_sgd() -> None:
    model, reference = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    config = OptimizerConfig(name="lars", learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(decay_groups(model.parameters()), config)
    sgd = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for a, b in zip(model.parameters(), reference.parameters(), strict=True):
            a.grad = torch.randn(3)
            b.grad = a.grad.clone()
        optimizer.step()
        sgd.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("clip_norm", "factor"), [(1.0, 0.2), (None, 1.0), (10.0, 1.0)])
def test_clip_gradients__scales_all_to_the_norm_if_above_and_returns_the_one_before(
    clip_norm, factor
) -> None:
    model = nn.Linear(2, 1)
    assert clip_gradients(model, clip_norm).item() == 0.0
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert clip_gradients(model, clip_norm).item() == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, factor * torch.tensor([[3.0, 0.0]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(model.bias.grad, factor * torch.tensor([4.0]), rtol=1e-5, atol=0)
    model.weight.grad[0, 0] = torch.nan
    assert clip_gradients(model, clip_norm).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer__a_tensor_without_gradient_at_first_starts_later_as_any_other(name: str) -> None:
    moved = []
    for frozen_steps in (0, 1):
        weights = [nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
        optimizer = build_optimizer(decay_groups(weights), OptimizerConfig(name=name, learning_rate=0.1))  # type: ignore[arg-type]
        for step in range(frozen_steps + 1):
            for i, weight in enumerate(weights):
                weight.grad = None if i == 1 and step < frozen_steps else torch.full((3, 3), 0.5)
            optimizer.step()
        moved.append(weights[1].detach())
    assert torch.equal(*moved) and not torch.equal(moved[0], torch.ones(3, 3))
