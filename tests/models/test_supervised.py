import pytest
import torch
import torch.nn.functional as F

from sslsv.models.base import CorpusSize, Progress
from sslsv.models.fields import MarginSchedule
from sslsv.models.supervised import Supervised, aam_logits, harder_negatives, sphereface2_loss
from tests.encoders.peers import peer_module
from tests.models import networks
from tests.models.networks import PROGRESS

torch.set_num_threads(1)


def small(**settings: object) -> Supervised:
    return networks.small(Supervised, **settings)


def cosines(rows: int = 6, classes: int = 4) -> torch.Tensor:
    return torch.rand(rows, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


LABELS = torch.tensor([0, 3, 1, 2, 0, 1])


def test_aam_logits__without_margin_are_the_scaled_cosines() -> None:
    assert torch.equal(aam_logits(cosines(), LABELS, 0.0, 30.0), 30.0 * cosines())


@pytest.mark.parametrize("margin", [0.2, 0.3, 0.5])
def test_aam_logits__are_those_of_speechbrain(margin: float) -> None:
    losses = pytest.importorskip("speechbrain.nnet.losses")
    theirs = losses.AdditiveAngularMargin(margin=margin, scale=30.0)(
        cosines().float(), F.one_hot(LABELS, 4).float()
    )
    assert torch.allclose(aam_logits(cosines().float(), LABELS, margin, 30.0), theirs, atol=1e-4)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_aam_logits__gradient_is_finite_at_the_ends(cosine: float) -> None:
    values = torch.tensor([[cosine, 0.0]], requires_grad=True)
    F.cross_entropy(aam_logits(values, torch.tensor([0]), 0.2, 30.0), torch.tensor([0])).backward()
    assert torch.isfinite(values.grad).all()


def test_aam_logits__permuting_the_classes_permutes_them() -> None:
    order = torch.tensor([2, 0, 3, 1])
    permuted = aam_logits(cosines()[:, order], order.argsort()[LABELS], 0.2, 30.0)
    assert torch.equal(permuted, aam_logits(cosines(), LABELS, 0.2, 30.0)[:, order])


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_supervised__loss_is_that_of_wespeaker_with_subcenters_and_hard_negatives(margin: float) -> None:
    projections = peer_module("wespeaker.models.projections")
    theirs = projections.ArcMarginProduct_intertopk_subcenter(16, 7, scale=32.0, K=3, mp=0.06, k_top=2)
    theirs.double().update(margin)
    model = small(scale=32.0, num_subcenters=3, num_hard_negatives=2, margin=margin, hard_margin=0.3 * margin)
    embeddings = torch.randn(5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 6, 1, 2, 0])
    with torch.no_grad():
        theirs.weight.copy_(model.classes)
        logits = theirs(embeddings, labels)
    logits = logits[0] if isinstance(logits, tuple) else logits
    expected = F.cross_entropy(logits, labels)
    cosines = (F.normalize(embeddings) @ F.normalize(model.classes.double()).T).view(5, 7, 3).amax(2)
    hardened = harder_negatives(cosines, labels, 2, 0.3 * margin)
    found = F.cross_entropy(aam_logits(hardened, labels, margin, 32.0), labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sphereface2_loss__is_wespeakers() -> None:
    theirs = peer_module("wespeaker.models.projections").SphereFace2(16, 7, scale=32.0, margin=0.2).double()
    embeddings = torch.randn(5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 6, 1, 2, 0])
    cosines = F.normalize(embeddings) @ F.normalize(theirs.weight).T
    _, expected = theirs(embeddings, labels)
    found = sphereface2_loss(cosines, labels, 0.2, 32.0, torch.zeros(()))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(("count", "margin"), [(0, 0.06), (2, 0.0)])
def test_harder_negatives__none_or_no_margin_changes_nothing(count: int, margin: float) -> None:
    assert torch.equal(harder_negatives(cosines(), LABELS, count, margin), cosines())


def test_harder_negatives__the_target_is_never_one() -> None:
    values = torch.tensor([[0.9, 0.1, 0.5]])
    changed = harder_negatives(values, torch.tensor([0]), 1, 0.1) != values
    assert changed.tolist() == [[False, False, True]]


def test_start_from__keeps_the_classes_only_if_asked_and_if_they_fit() -> None:
    source = small(loss="sphereface2")
    for keeps in (False, True):
        model = small(loss="sphereface2", keeps_classes=keeps)
        with torch.no_grad():
            model.classes.zero_()
            source.bias.fill_(-9.0)
        model.start_from(source.encoder, source)
        assert torch.equal(model.classes, source.classes) is keeps
        assert torch.equal(model.bias, source.bias) is keeps
    with pytest.raises(ValueError, match="this run needs 21 class centres, but encoder.init has 7"):
        small(num_subcenters=3, keeps_classes=True).start_from(source.encoder, source)
    with pytest.raises(ValueError, match="encoder.init has none"):
        model.start_from(source.encoder, None)


def test_supervised__accuracy_is_without_the_margin() -> None:
    model = small(margin=1.5).eval()
    data = networks.batch(model)
    nearest = model.cosines(model.embed(data["views"][:, 0])).argmax(1)
    assert model(data | {"speaker": nearest}, PROGRESS).metrics["accuracy"] == 1


def test_supervised__the_margin_rises_between_the_epochs_of_its_schedule() -> None:
    schedule = MarginSchedule(name="linear", rise_epochs=(1, 3))
    model = small(margin=0.4, margin_schedule=schedule).eval()
    data = networks.batch(model) | {"speaker": LABELS[:4]}
    cosines = model.cosines(model.embed(data["views"][:, 0]))
    for step, margin in ((2, 0.0), (8, 0.2), (18, 0.4)):  # of 20 steps in 5 epochs
        loss = model(data, Progress(step, 20, step // 4, 5)).loss
        expected = F.cross_entropy(aam_logits(cosines, LABELS[:4], margin, 30.0), LABELS[:4])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_supervised__a_rising_margin_is_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    schedule = MarginSchedule(name="exponential", rise_epochs=(0, 5))
    config = Supervised.Config(crop_seconds=0.3, margin_schedule=schedule, num_hard_negatives=2)
    model = Supervised(config, networks.PlainEncoder(), CorpusSize(20, 7)).double()
    data = networks.batch(model) | {"speaker": LABELS[:4]}
    compiled = torch.compile(model, backend=counter)
    for step in range(6):
        compiled(data, Progress(step, 20, step // 4, 5))
        if step == 2:
            first = counter.frame_count
    assert counter.frame_count == first


def test_supervised__a_list_of_one_speaker_is_refused() -> None:
    with pytest.raises(ValueError, match="1 speaker"):
        networks.small(Supervised, CorpusSize(9, 1))
