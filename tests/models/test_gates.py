import math

import pytest
import torch
import torch.nn.functional as F

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import CorpusSize, Progress
from sslsv.models.fields import CorrectionConfig, GateConfig
from sslsv.models.gates import CORRECTED, KEPT, LEFT_OUT, UNSEEN, Gate, Mixture, crossing, fit_mixture
from sslsv.models.supervised import Supervised
from sslsv.settings import build

torch.set_num_threads(1)
NUM_UTTERANCES, NUM_SPEAKERS = 40, 4
MIXTURE = GateConfig(name="mixture", start_epoch=1)


def progress(epoch: int) -> Progress:
    return Progress(step=epoch, total_steps=10, epoch=epoch, total_epochs=10)


def two_gaussians(low: tuple[float, float], high: tuple[float, float], weight: float = 0.5) -> Mixture:
    parts = ([weight, 1 - weight], [low[0], high[0]], [low[1], high[1]])
    return Mixture(*(torch.tensor(part, dtype=torch.float64) for part in parts))


def drawn(count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    return torch.cat([-2 + 0.3 * normal[: count // 2], 1 + 0.3 * normal[count // 2 :]])


class Vectors(torch.nn.Module):
    """Return the waveforms as embeddings."""

    embedding_dim = 8

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return waveforms


def on_vectors(**settings: object) -> Supervised:
    torch.manual_seed(3)
    size = CorpusSize(NUM_UTTERANCES, NUM_SPEAKERS)
    return Supervised(Supervised.Config(scale=10.0, **settings), Vectors(), size)


def batch(speakers: torch.Tensor | None = None, noise: float = 0.3) -> dict[str, torch.Tensor]:
    """Return all utterances of alternating speakers, whose voices are unit vectors; `clean` has no noise."""
    true = torch.arange(NUM_UTTERANCES) % NUM_SPEAKERS
    clean = F.one_hot(true, 8).float()
    noisy = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    labels = true if speakers is None else speakers
    utterances = torch.arange(NUM_UTTERANCES)
    return {"views": noisy[:, None], "clean": clean[:, None], "speaker": labels, "utterance": utterances}


def taught(model: Supervised) -> Supervised:
    """Set the classes of a model to the true voices."""
    with torch.no_grad():
        model.classes.copy_(torch.eye(NUM_SPEAKERS, 8))
    return model


def flipped(share: float) -> torch.Tensor:
    """Return labels that are wrong for a share of the utterances."""
    true = torch.arange(NUM_UTTERANCES) % NUM_SPEAKERS
    wrong = torch.randperm(NUM_UTTERANCES, generator=torch.Generator().manual_seed(5))
    wrong = wrong[: round(share * NUM_UTTERANCES)]
    return true.index_put((wrong,), (true[wrong] + 1) % NUM_SPEAKERS)


def test_crossing__densities_are_equal_there() -> None:
    assert crossing(two_gaussians((-2, 0.3), (1, 0.3))) == pytest.approx(-0.5, abs=1e-9)
    mixture = two_gaussians((-2, 0.7), (1, 0.3), weight=0.8)
    crossing_loss = crossing(mixture)
    densities = [
        w * math.exp(-(((crossing_loss - m) / d) ** 2) / 2) / d
        for w, m, d in zip(*(part.tolist() for part in mixture), strict=True)
    ]
    assert -2 < crossing_loss < 1 and densities[0] == pytest.approx(densities[1], rel=1e-9)


@pytest.mark.parametrize(
    "mixture",
    [
        two_gaussians((0, 1), (0, 1)),  # the densities are equal everywhere
        two_gaussians((0, 1), (0.1, 1), weight=0.99),  # they are equal only outside the means
        two_gaussians((0, 0.1), (0.5, 3), weight=0.01),
    ],
)
def test_crossing__unless_it_is_one_between_the_means_there_is_none(mixture: Mixture) -> None:
    assert crossing(mixture) is None


def test_fit_mixture__is_that_of_scikit_learn_whatever_the_order_of_values() -> None:
    from sklearn.mixture import GaussianMixture

    generator = torch.Generator().manual_seed(4)
    values = torch.cat(
        [torch.randn(900, generator=generator), 2 + 0.5 * torch.randn(300, generator=generator)]
    )
    theirs = GaussianMixture(2, tol=1e-6, max_iter=500, random_state=0).fit(values.double()[:, None].numpy())
    order = theirs.means_[:, 0].argsort()
    ours = fit_mixture(values)
    assert ours.means.tolist() == pytest.approx(theirs.means_[order, 0].tolist(), abs=0.02)
    assert ours.weights.tolist() == pytest.approx(theirs.weights_[order].tolist(), abs=0.02)
    shuffled = values[torch.randperm(len(values), generator=generator)]
    for part, same in zip(fit_mixture(shuffled), ours, strict=True):
        assert torch.equal(part, same)


def test_gate__threshold_lies_between_the_losses_of_two_kinds_and_stays_where_there_is_one() -> None:
    gate = Gate(MIXTURE, 4000)
    gate.remember(torch.arange(4000), drawn().exp(), torch.zeros(4000))
    gate.start_epoch(progress(0))
    assert gate.threshold == 0  # the gate has not started yet
    gate.start_epoch(progress(1))
    assert gate.threshold.log().item() == pytest.approx(-0.5, abs=0.03)
    before = gate.threshold.clone()
    gate.remember(torch.arange(4000), torch.ones(4000), torch.zeros(4000))
    gate.start_epoch(progress(2))
    assert torch.equal(gate.threshold, before)


def test_gate__keeps_at_least_the_share_that_is_asked_for() -> None:
    losses = torch.cat([torch.linspace(-3.2, -2.8, 30), torch.linspace(1.5, 2.5, 970)]).exp()
    kept = []
    for min_kept in (0.0, 0.6):
        gate = Gate(GateConfig(name="mixture", start_epoch=1, min_kept=min_kept), 1000)
        gate.remember(torch.arange(1000), losses, torch.full((1000,), KEPT))
        gate.start_epoch(Progress(0, 10, 1, 10))
        kept.append(int((gate.judge(losses, Progress(0, 10, 1, 10)) == KEPT).sum()))
    assert kept == [30, 600]


def test_gate__losses_of_0_are_no_obstacle() -> None:
    gate = Gate(MIXTURE, 100)
    losses = torch.cat([torch.zeros(50), torch.linspace(4, 6, 50)])
    gate.remember(torch.arange(100), losses, torch.zeros(100))
    gate.start_epoch(progress(1))
    assert 0 < gate.threshold < 4


def test_gate__remembers_by_utterance_and_only_in_training() -> None:
    gate = Gate(GateConfig(name="fixed"), 5)
    gate.remember(torch.tensor([3, 1]), torch.tensor([0.5, 2.0]), torch.tensor([KEPT, LEFT_OUT]))
    assert gate.losses.tolist() == [-1, 2, -1, 0.5, -1]
    assert gate.outcomes.tolist() == [UNSEEN, LEFT_OUT, UNSEEN, KEPT, UNSEEN]
    gate.eval().remember(torch.tensor([0]), torch.tensor([9.0]), torch.tensor([KEPT]))
    assert gate.losses[0] == -1


def test_supervised__an_infinite_gate_is_none() -> None:
    gated = on_vectors(gate=GateConfig(name="fixed", start_epoch=0, threshold=1e9))
    output, plain = gated(batch(), progress(3)), on_vectors()(batch(), progress(3))
    assert output.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    assert output.metrics["kept"] == 1


def test_supervised__the_loss_is_the_mean_over_what_is_kept() -> None:
    model = on_vectors(gate=GateConfig(name="fixed", start_epoch=2, threshold=4.0))
    model(batch(), progress(1))
    losses, is_kept = model.gate.losses.clone(), model.gate.losses <= 4.0
    assert 0 < is_kept.sum() < NUM_UTTERANCES and (model.gate.outcomes == KEPT).all()  # not started yet
    output = model(batch(), progress(2))
    assert output.loss.item() == pytest.approx(losses[is_kept].mean().item(), rel=1e-6)
    assert torch.equal(model.gate.outcomes == KEPT, is_kept)


def test_supervised__a_batch_of_which_nothing_is_kept_has_a_loss_of_0() -> None:
    model = on_vectors(gate=GateConfig(name="fixed", start_epoch=0, threshold=1e-9))
    output = model(batch(), progress(0))
    output.loss.backward()
    assert output.loss == 0 and model.classes.grad.abs().max() == 0


def test_supervised__a_correction_that_is_never_sure_is_the_gate_alone() -> None:
    gate = GateConfig(name="fixed", start_epoch=0, threshold=4.0)
    alone = on_vectors(gate=gate)
    never = on_vectors(gate=gate, correction=CorrectionConfig(start_epoch=0, threshold=1.0))
    outputs = [model(batch(), progress(0)) for model in (alone, never)]
    kept = outputs[0].metrics["kept"].item()
    assert 0 < kept < 1 and outputs[1].metrics["corrected"] == 0
    assert torch.equal(alone.gate.outcomes, never.gate.outcomes)
    # With correction the loss is divided by the number of all rows, without it by that of kept rows.
    assert outputs[1].loss.item() == pytest.approx(kept * outputs[0].loss.item(), rel=1e-6)


def test_supervised__wrong_labels_are_corrected_by_the_clean_crop() -> None:
    labels, gate = flipped(0.2), GateConfig(name="fixed", start_epoch=0, threshold=3.0)
    model = taught(on_vectors(gate=gate, correction=CorrectionConfig(start_epoch=2, threshold=0.5)))
    assert model(batch(), progress(0)).metrics["kept"] == 1  # with true labels
    right = labels == torch.arange(NUM_UTTERANCES) % NUM_SPEAKERS
    before = model(batch(labels), progress(1))
    assert before.metrics["kept"] == 0.8 and before.metrics["corrected"] == 0
    after = model(batch(labels), progress(2))
    assert after.metrics["corrected"].item() == pytest.approx(0.2)
    assert torch.equal(model.gate.outcomes == CORRECTED, ~right)
    true = taught(on_vectors())(batch(), progress(2))
    assert after.loss.item() == pytest.approx(true.loss.item(), rel=1e-6)


def test_supervised__a_clean_crop_changes_no_running_statistics() -> None:
    torch.manual_seed(3)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    config = Supervised.Config(gate=GateConfig(name="fixed"), correction=CorrectionConfig())
    model = Supervised(config, encoder, CorpusSize(20, 7))
    before = [buffer.clone() for buffer in model.encoder.buffers()]
    model.predict(torch.randint(-9000, 9000, (3, 8000)).to(torch.int16), 0.1)
    assert all(map(torch.equal, before, model.encoder.buffers())) and model.encoder.training


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "sphereface2", "gate": {"name": "fixed"}}, "gates use the cross entropy of aam"),
        ({"correction": {}}, "gate.name is none"),
        ({"gate": {"name": "mixture", "start_epoch": 0}}, "start_epoch is 0"),
    ],
)
def test_settings__a_gate_without_its_losses_and_a_correction_without_a_gate_are_refused(
    settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        build(Supervised.Config, settings)
