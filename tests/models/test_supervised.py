import pytest
import torch
import torch.nn.functional as F

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import CorpusSize, Progress
from sslsv.models.supervised import Supervised, aam_logits, aam_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def cosines(rows: int = 6, classes: int = 4) -> torch.Tensor:
    return torch.rand(rows, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


LABELS = torch.tensor([0, 3, 1, 2, 0, 1])


def test_aam_loss__without_margin_is_the_softmax_of_scaled_cosines() -> None:
    assert aam_loss(cosines(), LABELS, 0.0, 30.0) == F.cross_entropy(30.0 * cosines(), LABELS)


def test_aam_logits__known_value() -> None:
    logits = aam_logits(torch.tensor([[0.5, 0.1]], dtype=torch.float64), torch.tensor([0]), 0.2, 1.0)
    assert logits[0, 0].item() == pytest.approx(0.3179806, abs=1e-7)
    assert logits[0, 1].item() == 0.1


@pytest.mark.parametrize("margin", [0.2, 0.3, 0.5])
def test_aam_loss__is_that_of_speechbrain(margin: float) -> None:
    losses = pytest.importorskip("speechbrain.nnet.losses")
    theirs = losses.AdditiveAngularMargin(margin=margin, scale=30.0)(
        cosines().float(), F.one_hot(LABELS, 4).float()
    )
    assert torch.allclose(aam_logits(cosines().float(), LABELS, margin, 30.0), theirs, atol=1e-4)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_aam_loss__gradient_is_finite_at_the_ends(cosine: float) -> None:
    values = torch.tensor([[cosine, 0.0]], requires_grad=True)
    aam_loss(values, torch.tensor([0]), 0.2, 30.0).backward()
    assert torch.isfinite(values.grad).all()


def test_aam_logits__permuting_the_classes_permutes_them() -> None:
    order = torch.tensor([2, 0, 3, 1])
    permuted = aam_logits(cosines()[:, order], order.argsort()[LABELS], 0.2, 30.0)
    assert torch.equal(permuted, aam_logits(cosines(), LABELS, 0.2, 30.0)[:, order])


def test_supervised__accuracy_is_without_the_margin() -> None:
    torch.manual_seed(2)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=4, stem_time_stride=2))
    model = Supervised(Supervised.Config(margin=1.5), encoder, CorpusSize(9, 4)).eval()
    batch = {"views": torch.randint(-9000, 9000, (6, 1, 8000)).to(torch.int16), "speaker": LABELS}
    with torch.no_grad():
        embeddings = F.normalize(model.embed(batch["views"][:, 0]), dim=1)
    nearest = (embeddings @ F.normalize(model.classes, dim=1).T).argmax(1)
    output = model(batch | {"speaker": nearest}, PROGRESS)
    assert output.metrics["accuracy"] == 1


def test_supervised__a_list_of_one_speaker_is_refused() -> None:
    with pytest.raises(ValueError, match="1 speaker"):
        Supervised(Supervised.Config(), ThinResNet34(ThinResNet34.Config(width=4)), CorpusSize(9, 1))
