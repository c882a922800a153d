import pytest
import torch

from sslsv.models.lejepa import LeJEPA
from tests.encoders.peers import lightly_loss
from tests.models.networks import PROGRESS, batch, small


def model(**settings: object) -> LeJEPA:
    return small(LeJEPA, projector_dims=(12, 4), num_directions=32, **settings)


@pytest.mark.parametrize("num_short", [0, 3])
def test_lejepa__loss_is_that_of_lightly_with_the_same_directions(num_short, monkeypatch) -> None:
    lejepa = model(num_short=num_short, sigreg_weight=0.2).eval()
    data = batch(lejepa, rows=5)
    z = [lejepa.projector(lejepa.encoder(v)) for g in lejepa.views for v in data[g.name].unbind(1)]
    z = torch.stack(z).detach()  # (views, B, P), each view encoded separately
    theirs = lightly_loss("lejepa_loss", "LeJEPALoss")(lambda_param=0.2, sigreg_num_vectors=32)
    directions = torch.randn(4, 32, generator=PROGRESS.generator())  # not PyTorch's global generator
    directions /= directions.norm(dim=0)
    monkeypatch.setattr(theirs.sigreg, "_generate_unit_vectors", lambda *_, **__: directions)
    if num_short:
        expected = theirs(local_proj=z[2:], global_proj=z[:2])
    else:
        expected = 0.2 * theirs.sigreg(z) + 0.8 * (z - z.mean(0)).square().mean()
    assert lejepa(data, PROGRESS).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_lejepa__metrics_are_the_unweighted_terms() -> None:
    lejepa = model(sigreg_weight=0.3)
    output = lejepa(batch(lejepa), PROGRESS)
    expected = 0.3 * output.metrics["sigreg"] + 0.7 * output.metrics["distance"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_lejepa_config__one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="two views are needed"):
        LeJEPA.Config(num_long=1, num_short=0)
