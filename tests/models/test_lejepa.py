import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.lejepa import LeJEPA, centre_distance
from sslsv.models.terms import sigreg
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=3, total_steps=10, epoch=0, total_epochs=1)


def projections(views: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(views, 6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(**settings: object) -> LeJEPA:
    torch.manual_seed(8)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    lengths = {"long_seconds": 0.4, "short_seconds": 0.3}
    config = LeJEPA.Config(**lengths, projector_dims=(12, 4), num_directions=32, **settings)
    return LeJEPA(config, encoder)


def batch(model: LeJEPA) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        group.name: torch.randint(
            -9000, 9000, (5, group.count, round(group.seconds * 16000)), generator=generator
        ).to(torch.int16)
        for group in model.views
    }


def test_centre_distance__is_that_of_lightly() -> None:
    theirs = lightly_loss("lejepa_loss", "lejepa_invariance_loss")
    z = projections()
    expected = theirs(all_proj=z, global_proj=z[:2]).item()
    assert centre_distance(z, 2).item() == pytest.approx(expected, rel=1e-12)


def test_centre_distance__equal_views_have_none() -> None:
    assert centre_distance(projections(1).expand(4, -1, -1), 2).item() == 0


@pytest.mark.parametrize("num_short", [0, 3])
def test_lejepa__loss_is_that_of_lightly_with_the_same_directions(num_short, monkeypatch) -> None:
    model = small(num_short=num_short, sigreg_weight=0.2).eval()
    data = batch(model)
    z = [model.projector(model.encoder(v)) for g in model.views for v in data[g.name].unbind(1)]
    z = torch.stack(z).detach()  # (views, B, P), each view by itself
    kind = lightly_loss("lejepa_loss", "LeJEPALoss")
    theirs = kind(lambda_param=0.2, sigreg_num_vectors=32)
    directions = torch.randn(4, 32, generator=PROGRESS.generator())
    monkeypatch.setattr(
        theirs.sigreg, "_generate_unit_vectors", lambda *_, **__: directions / directions.norm(dim=0)
    )
    if num_short:
        expected = theirs(local_proj=z[2:], global_proj=z[:2])
    else:
        expected = 0.2 * theirs.sigreg(z) + 0.8 * centre_distance(z, 2)
    assert model(data, PROGRESS).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_lejepa__metrics_are_the_unweighted_terms() -> None:
    model = small(sigreg_weight=0.3)
    output = model(batch(model), PROGRESS)
    expected = 0.3 * output.metrics["sigreg"] + 0.7 * output.metrics["distance"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_lejepa__directions_depend_on_the_step_alone() -> None:
    z = projections()
    values = set()
    for seed in (1, 2):
        torch.manual_seed(seed)  # workers differ in PyTorch's own draws
        values.add(sigreg(z, PROGRESS.generator(), 16).item())
    assert len(values) == 1
    assert sigreg(z, Progress(4, 10, 0, 1).generator(), 16).item() not in values


def test_lejepa_config__one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="there must be two views or more"):
        LeJEPA.Config(num_long=1, num_short=0)
