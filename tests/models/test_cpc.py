import math

import pytest
import torch

from sslsv.models.cpc import CPC
from tests.models.networks import PROGRESS, batch, small


def model(**settings: object) -> CPC:
    return small(CPC, crop_seconds=1.0, context_dim=12, **settings)


def test_cpc__predictions_of_zero_are_chance() -> None:
    cpc = model()
    for predictor in cpc.predictors:
        torch.nn.init.zeros_(predictor.weight)
    assert cpc(batch(cpc), PROGRESS).loss.item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize(("target", "views"), [("same_view", 1), ("other_view", 2)])
def test_cpc__is_the_cross_entropy_over_the_batch_in_loops(target: str, views: int) -> None:
    cpc = model(target=target).double().eval()
    data = batch(cpc, rows=5)
    frames = [cpc.encoder.frames(data["views"][:, i]).mT for i in range(views)]
    context = cpc.context.gru(frames[0][:, :-4])[0][:, -1]
    expected = 0.0
    for k in range(4):
        for i in range(5):
            prediction = cpc.predictors[k].weight @ context[i]
            scores = [(prediction @ frames[-1][j, -4 + k]).item() for j in range(5)]
            log_sum = max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores))
            expected += (log_sum - scores[i]) / 20
    assert cpc(data, PROGRESS).loss.item() == pytest.approx(expected, rel=1e-9)


def test_cpc__another_order_of_the_batch_changes_nothing() -> None:
    cpc, order = model().double(), [2, 0, 3, 1]
    views = batch(cpc)["views"]
    losses = [cpc({"views": each}, PROGRESS).loss.item() for each in (views, views[order])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_cpc__a_long_context_in_the_direction_of_its_targets_costs_nothing() -> None:
    cpc = model()
    dim = cpc.predictors[0].out_features
    cpc.context.frames = lambda waveforms: torch.eye(len(waveforms), dim)[:, None].expand(-1, 6, -1)
    cpc.context.context = lambda frames: 100 * frames[:, -1]
    for predictor in cpc.predictors:
        predictor.weight = torch.nn.Parameter(torch.eye(dim))
    assert cpc(batch(cpc), PROGRESS).loss.item() == pytest.approx(0, abs=1e-6)


def test_cpc__embedding_is_the_context_of_the_whole_utterance() -> None:
    cpc = model().eval()
    waveforms = batch(cpc)["views"][:, 0]
    frames = cpc.encoder.frames(waveforms).mT
    assert torch.allclose(cpc.embed(waveforms), cpc.context.gru(frames)[0][:, -1], atol=1e-6)
    assert cpc.embedding_dim == 12


def test_cpc__a_crop_without_enough_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="lower it, or raise model.crop_seconds"):
        model(num_steps=50)
