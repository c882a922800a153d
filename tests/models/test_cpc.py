import math

import pytest
import torch

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.cpc import CPC

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def small(**settings: object) -> CPC:
    torch.manual_seed(9)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    return CPC(CPC.Config(crop_seconds=1.0, context_dim=12, **settings), encoder)


def batch(views: int = 1, rows: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"views": torch.randint(-9000, 9000, (rows, views, 16000), generator=generator).to(torch.int16)}


def test_cpc__predictions_of_zero_are_chance() -> None:
    model = small()
    for predictor in model.predictors:
        torch.nn.init.zeros_(predictor.weight)
    assert model(batch(), PROGRESS).loss.item() == pytest.approx(math.log(5), rel=1e-6)


@pytest.mark.parametrize(("target", "views"), [("same_view", 1), ("other_view", 2)])
def test_cpc__is_the_cross_entropy_over_the_batch_in_loops(target: str, views: int) -> None:
    model, data = small(target=target).double().eval(), batch(views)
    frames = [model.encoder.frames(data["views"][:, i]).mT for i in range(views)]
    context = model.context.gru(frames[0][:, :-4])[0][:, -1]
    expected = 0.0
    for k in range(4):
        for i in range(5):
            prediction = model.predictors[k].weight @ context[i]
            scores = [(prediction @ frames[-1][j, -4 + k]).item() for j in range(5)]
            log_sum = max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores))
            expected += (log_sum - scores[i]) / 20
    assert model(data, PROGRESS).loss.item() == pytest.approx(expected, rel=1e-9)


def test_cpc__embedding_is_the_context_of_the_whole_utterance() -> None:
    model = small().eval()
    waveforms = batch()["views"][:, 0]
    frames = model.encoder.frames(waveforms).mT
    assert torch.allclose(model.embed(waveforms), model.context.gru(frames)[0][:, -1], atol=1e-6)
    assert model.embedding_dim == 12


def test_cpc__a_crop_without_enough_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="lower it, or raise model.crop_seconds"):
        small(num_steps=50)
