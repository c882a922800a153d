from pathlib import Path

import pytest
import torch

from benchmarks.world_size import SIZE, NoiseCorpus, noise_batch, small_settings
from sslsv import registry
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models import terms, vibcreg
from sslsv.models.base import REGULARIZERS, Model, Progress, StepOutput, clip_each
from sslsv.models.contrast import info_nce_loss, nt_xent
from sslsv.models.two_view import TeacherModel, TwoViewModel
from tests.models.networks import LATER, shift_positives

PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=2)
METHODS = registry.names("models")
TWO_VIEW_METHODS = [name for name in METHODS if issubclass(registry.find("models", name), TwoViewModel)]
WITH_TEACHER = [name for name in METHODS if issubclass(registry.find("models", name), TeacherModel)]


def small(name: str) -> Model:
    torch.manual_seed(30)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    model = registry.find("models", name)(small_settings(name), encoder, SIZE)
    model.start_epoch(PROGRESS, NoiseCorpus())
    return model


def batch(model: Model) -> dict[str, torch.Tensor]:
    return noise_batch(model, torch.Generator().manual_seed(31))


def train_one_step(model: Model) -> None:
    model.zero_grad()
    model(batch(model), LATER).loss.backward()
    model.before_step(LATER)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.after_step(LATER)


@pytest.mark.parametrize("name", METHODS)
def test_model__gives_every_trained_parameter_a_gradient_and_detached_scalars(name: str) -> None:
    model = small(name)
    output = model(batch(model), PROGRESS)
    assert isinstance(output, StepOutput) and output.loss.shape == () and output.loss.requires_grad
    output.loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
    assert model.encoder.stem[0].weight.grad.abs().max() > 0
    assert "batch_feature_std" in output.metrics and len(output.metrics) >= 2
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_model__under_bfloat16_autocast_the_loss_stays_float32_and_close(name: str) -> None:
    model = small(name).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    exact = model(batch(model), PROGRESS).loss.item()
    model.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch(model), PROGRESS).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_model__restored_from_its_state_it_takes_the_same_step(name: str) -> None:
    model, restored = small(name), small(name)
    with torch.no_grad():
        for parameter in restored.parameters():
            parameter.add_(1.0)
    train_one_step(model)
    restored.load_state_dict(model.state_dict())
    for each in (model, restored):
        train_one_step(each)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in restored.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_parameter_groups__hold_every_trained_parameter_once(name: str) -> None:
    model = small(name)
    grouped = [p for group in model.parameter_groups() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", TWO_VIEW_METHODS)
def test_two_view_model__loss_is_the_pure_function_of_two_projections_the_second_maybe_sampled(name) -> None:
    model = small(name).eval()  # without batch statistics, views can be projected separately
    data, shift = batch(model), int(hasattr(model.config, "positives"))
    shift_positives(model, shift)
    y_a, y_b = (model.encoder(data["views"][:, i]) for i in (0, 1))
    z_a, z_b = model.projector(y_a), model.projector(y_b).roll(shift, 0)
    pure = {
        "simclr": lambda: nt_xent(z_a, z_b, 0.03)[0],
        "vicreg": lambda: terms.vicreg_loss(z_a, z_b, 1.0, 1.0, 0.1)[0],
        "vibcreg": lambda: vibcreg.vibcreg_loss(z_a, z_b, 1.0, 1.0, 8.0)[0],
        "barlow_twins": lambda: terms.barlow_twins_loss(z_a, z_b, 0.005, 0.025)[0],
        "combiner": lambda: info_nce_loss(y_a, y_b, 0.2) + terms.vicreg_loss(z_a, z_b, 1.0, 1.0, 0.1)[0],
    }
    expected = pure.get(name, lambda: model.loss_at(z_a, z_b, PROGRESS).loss)()
    assert model(data, PROGRESS).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_architecture_page__its_example_of_a_method_trains() -> None:
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = {"__name__": "example"}
    exec(page.split("## Add a method")[1].split("```python\n")[1].split("```")[0], names)
    kind = names["Pull"]
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    model = kind(kind.Config(crop_seconds=0.3, projector_dims=(8,), weight=3.0), encoder)
    output = model(batch(model), PROGRESS)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(3 * output.metrics["term"].item())


@pytest.mark.parametrize("name", WITH_TEACHER)
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_teacher__momentum_0_copies_the_student_and_1_leaves_the_teacher(
    name: str, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name)
    monkeypatch.setattr(type(model), "teacher_momentum", lambda self, progress: momentum)
    before = [p.clone() for p in model.teacher.parameters()]
    with torch.no_grad():
        for part in model.teacher:
            for parameter in getattr(model, part).parameters():
                parameter.add_(torch.randn_like(parameter))
    model.after_step(PROGRESS)
    students = [p for part in model.teacher for p in getattr(model, part).parameters()]
    for teacher, student, old in zip(model.teacher.parameters(), students, before, strict=True):
        assert torch.equal(teacher, student if momentum == 0 else old)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_teacher__its_running_statistics_are_no_average(name: str) -> None:
    model = small(name)
    model(batch(model), PROGRESS)
    before = {key: value.clone() for key, value in model.teacher.named_buffers()}
    for part in model.teacher:
        for buffer in getattr(model, part).buffers():
            buffer.add_(1)
    model.after_step(PROGRESS)
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.named_buffers())


@pytest.mark.parametrize(
    ("name", "expected"), [("moco_v3", [0.99, 0.9914645, 0.995, 1.0]), ("moco", [0.999] * 4)]
)
def test_teacher__its_momentum_rises_to_one_by_half_a_cosine_but_for_moco(name, expected) -> None:
    model = small(name)
    values = [model.teacher_momentum(Progress(step, 20, 0, 1)) for step in (0, 5, 10, 20)]
    assert values == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_teacher__gets_no_gradient_and_its_batch_norms_go_on(name: str) -> None:
    model = small(name)
    before = model.teacher["encoder"].stem[1].running_mean.clone()
    model(batch(model), PROGRESS).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert not torch.equal(before, model.teacher["encoder"].stem[1].running_mean)


@pytest.mark.parametrize("dims", [(8, 4), ()])
@pytest.mark.parametrize("name", ["byol", "moco_v3", "simsiam"])
def test_predictor__must_end_with_the_size_of_the_projection(name: str, dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="same number of units"):
        registry.find("models", name).Config(projector_dims=(8, 8), predictor_dims=dims)


def test_clip_each__bounds_every_tensor_by_itself() -> None:
    large, small_one = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(2))
    large.grad, small_one.grad = torch.full((4,), 5.0), torch.full((2,), 0.1)
    clip_each([large, small_one], 3.0)
    assert large.grad.norm().item() == pytest.approx(3.0, rel=1e-6)
    assert torch.equal(small_one.grad, torch.full((2,), 0.1))


def test_progress__draws_depend_on_seed_step_and_purpose_alone() -> None:
    def draws(step: int, purpose: int) -> list[float]:
        return torch.rand(3, generator=Progress(step, 9, 0, 1, seed=3).generator(purpose)).tolist()

    assert draws(4, 0) == draws(4, 0) != draws(5, 0) and draws(4, REGULARIZERS) != draws(4, 0)
