import pickle
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sslsv.encoders import ThinResNet34
from sslsv.models import (
    MODELS,
    BarlowTwins,
    Progress,
    SimCLR,
    VICReg,
    ViewGroup,
    barlow_twins,
    vibcreg,
    vicreg,
)
from sslsv.models.base import StepOutput, TwoViewModel
from sslsv.models.simclr import nt_xent_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def small(name: str) -> TwoViewModel:
    torch.manual_seed(30)
    kind = MODELS[name]
    extra = {"whitening_groups": 2} if name == "vibcreg" else {}
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    return kind(kind.Config(crop_seconds=0.2, projector_dims=(8, 8), **extra), encoder)


def batch(rows: int = 5) -> dict[str, torch.Tensor]:
    views = torch.randint(-9000, 9000, (rows, 2, 3200), generator=torch.Generator().manual_seed(31))
    return {"views": views.to(torch.int16), "sample": torch.arange(rows)}


def test_two_view_model__one_that_only_states_its_loss_knows_its_settings() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example = readme.split("### Add a model in one file")[1].split("```python")[1].split("```")[0]
    names = {"TwoViewModel": TwoViewModel, "StepOutput": StepOutput, "my_loss": vicreg_like}
    exec(textwrap.dedent("   " + example.lstrip()), names)
    config = SimpleNamespace(crop_seconds=0.2, projector_dims=(8,), weight=3.0)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    output = names["MyModel"](config, encoder)(batch(), PROGRESS)
    output.loss.backward()
    assert output.metrics["term"] == output.loss > 0


def vicreg_like(z_a: torch.Tensor, z_b: torch.Tensor, weight: float) -> torch.Tensor:
    return weight * (z_a - z_b).square().mean()


@pytest.mark.parametrize("name", MODELS)
def test_model__gives_every_parameter_a_gradient_and_detached_scalars(name: str) -> None:
    model = small(name)
    output = model(batch(), PROGRESS)
    assert isinstance(output, StepOutput) and output.loss.shape == () and output.loss.requires_grad
    output.loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert model.encoder.stem[0].weight.grad.abs().max() > 0
    assert "batch_feature_std" in output.metrics and len(output.metrics) >= 2
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_model__loss_is_the_pure_function_of_the_two_views_projections(name: str) -> None:
    model = small(name).eval()  # no batch statistics: each view may be projected alone
    data = batch()
    z_a, z_b = (model.projector(model.encoder(data["views"][:, i])) for i in (0, 1))
    expected = {
        "simclr": lambda: nt_xent_loss(z_a, z_b, 0.03),
        "vicreg": lambda: vicreg.vicreg_loss(z_a, z_b, 1.0, 1.0, 0.1),
        "vibcreg": lambda: vibcreg.vibcreg_loss(z_a, z_b, 1.0, 1.0, 8.0),
        "barlow_twins": lambda: barlow_twins.barlow_twins_loss(z_a, z_b, 0.005, 0.025),
    }[name]()
    assert model(data, PROGRESS).loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_model__under_bfloat16_autocast_the_loss_stays_float32_and_close(name: str) -> None:
    model = small(name).eval()
    exact = model(batch(), PROGRESS).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch(), PROGRESS).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_model__a_few_steps_on_one_batch_lower_the_loss(name: str) -> None:
    model = small(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(batch(), PROGRESS).loss
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert min(values[1:]) < values[0]


@pytest.mark.parametrize("name", MODELS)
def test_config__is_frozen_named_and_pickles(name: str) -> None:
    config = MODELS[name].Config()
    assert config.name == name
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(AttributeError):
        config.name = "other"  # type: ignore[misc]


def test_model__states_its_views_and_embeds_with_the_encoder() -> None:
    model = small("vicreg").eval()
    assert model.view_groups == (ViewGroup("views", 2, 0.2),)
    waveforms = batch()["views"][:, 0]
    assert torch.equal(model.embed(waveforms), model.encoder(waveforms))


def test_model__without_projector_the_loss_sees_the_embeddings() -> None:
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    model = SimCLR(SimCLR.Config(), encoder)
    assert not list(model.projector.parameters())
    assert torch.isfinite(model(batch(), PROGRESS).loss)


def test_progress__fraction_of_the_steps() -> None:
    assert Progress(step=5, total_steps=20, epoch=1, total_epochs=4).fraction == 0.25


@pytest.mark.parametrize("kind", [SimCLR, VICReg, BarlowTwins])
def test_config__impossible_crops_and_layers_are_refused(kind) -> None:
    with pytest.raises(ValueError, match="crop_seconds is 0"):
        kind.Config(crop_seconds=0)
    with pytest.raises(ValueError, match="every layer needs at least 1 unit"):
        kind.Config(projector_dims=(16, 0))
