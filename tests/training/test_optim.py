import math

import pytest
import torch
from torch import Tensor, nn

from sslsv.config import OptimizerConfig, ScheduleConfig
from sslsv.models.base import decay_groups
from sslsv.training.optim import LARS, build_optimizer, clip_gradients, learning_rate

NAMES = ["adam", "adamw", "sgd", "lars"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Linear(6, 2))


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
        optimizer.load_state_dict(state)  # as after a restart
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


BASE = 1e-3


def rates(config: ScheduleConfig, epochs: int = 4, steps_per_epoch: int = 10) -> list[float]:
    total = epochs * steps_per_epoch
    return [learning_rate(config, BASE, step, total, steps_per_epoch) for step in range(total)]


def test_learning_rate__of_steps_is_multiplied_every_n_epochs() -> None:
    seen = rates(ScheduleConfig(name="step", decay_factor=0.5, decay_every_epochs=2), epochs=6)
    assert seen == [BASE] * 20 + [BASE * 0.5] * 20 + [BASE * 0.25] * 20
    assert set(rates(ScheduleConfig(name="constant"))) == {BASE}


def test_learning_rate__of_a_cosine_is_the_formula_and_ends_exactly_at_the_minimum() -> None:
    seen = rates(ScheduleConfig(name="cosine", min_learning_rate=1e-5))
    for step, rate in enumerate(seen):
        expected = 1e-5 + 0.5 * (BASE - 1e-5) * (1 + math.cos(math.pi * step / 39))
        assert rate == pytest.approx(expected, rel=1e-12)
    assert (seen[0], seen[-1]) == (BASE, 1e-5)
    assert rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=0.0, min_learning_rate=1e-5)) == seen


def test_learning_rate__of_a_warmup_rises_from_above_zero_to_the_base_and_falls_to_the_minimum() -> None:
    seen = rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=1.0, min_learning_rate=2e-5))
    assert seen[:10] == pytest.approx([BASE * n / 10 for n in range(1, 11)], rel=1e-12)
    assert seen[9] == BASE and seen[-1] == 2e-5
    assert all(later < earlier for earlier, later in zip(seen[9:], seen[10:], strict=False))
    assert rates(ScheduleConfig(name="warmup_cosine", warmup_epochs=4.0))[-1] == BASE


def test_learning_rate__of_an_exponential_falls_by_equal_factors_after_its_warm_up() -> None:
    seen = rates(ScheduleConfig(name="warmup_exponential", warmup_epochs=1.0, min_learning_rate=BASE / 100))
    falling = [BASE * 100 ** (-step / 39) for step in range(40)]
    expected = [rate * min((step + 1) / 10, 1) for step, rate in enumerate(falling)]
    assert seen == pytest.approx(expected, rel=1e-12) and seen[-1] == pytest.approx(BASE / 100)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "warmup_cosine", "warmup_exponential"])
def test_learning_rate__is_positive_for_runs_of_one_step_and_stays_past_the_end(name: str) -> None:
    config = ScheduleConfig(name=name, warmup_epochs=1.0)  # type: ignore[arg-type]
    assert learning_rate(config, BASE, 0, 1, 1) == BASE
    if "cosine" in name:
        assert learning_rate(config, BASE, 99, 40, 10) == config.min_learning_rate
