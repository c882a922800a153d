import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.fields import MarginConfig
from sslsv.models.moco import MoCo, moco_logits
from tests.models.lightly_losses import lightly_loss

torch.set_num_threads(1)
PROGRESS = Progress(step=0, total_steps=10, epoch=0, total_epochs=1)


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def small(queue_length: int = 10, **settings: Any) -> MoCo:
    torch.manual_seed(8)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    return MoCo(MoCo.Config(crop_seconds=0.3, queue_length=queue_length, **settings), encoder)


def views(seed: int, rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"views": torch.randint(-9000, 9000, (rows, 2, 4800), generator=generator).to(torch.int16)}


def moco_loss(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE as the method takes it: the own key is class 0 of the logits."""
    logits = moco_logits(q, k, queue, temperature)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def test_moco_loss__is_the_sum_in_loops() -> None:
    q, k, queue = unit(5, 4, seed=1), unit(5, 4, seed=2), unit(7, 4, seed=3)
    expected = 0.0
    for i in range(5):
        own = math.exp(float(q[i] @ k[i]) / 0.2)
        others = sum(math.exp(float(q[i] @ queue[j]) / 0.2) for j in range(7))
        expected -= math.log(own / (own + others)) / 5
    assert moco_loss(q, k, queue, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_moco_loss__is_that_of_lightly_with_the_same_queue() -> None:
    loss = lightly_loss("ntx_ent_loss", "NTXentLoss")(temperature=0.2, memory_bank_size=(7, 4))
    q, k, queue = unit(5, 4, seed=1).float(), unit(5, 4, seed=2).float(), unit(7, 4, seed=3).float()
    loss.memory_bank.bank, loss.memory_bank.bank_ptr = queue.clone(), torch.zeros(1, dtype=torch.int64)
    q.requires_grad_()
    assert moco_loss(q, k, queue, 0.2).item() == pytest.approx(loss(q, k).item(), rel=1e-5)


def test_moco_loss__an_empty_queue_gives_nothing_to_learn() -> None:
    q = unit(5, 4, seed=1).requires_grad_()
    loss = moco_loss(q, unit(5, 4, seed=2), torch.zeros(0, 4, dtype=torch.float64), 0.03)
    loss.backward()
    assert loss.item() == 0 and q.grad.abs().max() == 0


def test_moco__queues_hold_the_newest_keys_after_each_step() -> None:
    model, kept = small(), [[], []]
    for step in range(4):
        model(views(step), PROGRESS).loss.backward()
        for view in range(2):
            kept[view].append(model._new_keys[:, view])
        model.after_step(PROGRESS)
    for view, queue in enumerate(model.queues):
        assert torch.equal(queue.in_order(), torch.cat(kept[view])[-10:])
        assert torch.allclose(queue.rows.norm(dim=1), torch.ones(10), atol=1e-6)


def test_moco__the_loss_uses_the_queue_of_before_the_step() -> None:
    model = small()
    before = model.queues[0].rows.clone()
    model(views(0), PROGRESS)
    assert torch.equal(model.queues[0].rows, before)


@pytest.mark.parametrize("name", ["am", "aam", "sphereface", "magface", "adaface"])
def test_moco__no_margin_of_any_kind_is_the_loss_without_one(name: str) -> None:
    margin = MarginConfig(name=name, value=1.0 if name == "sphereface" else 0.0, lowest_value=0.0)
    outputs = [model(views(0), PROGRESS) for model in (small(), small(margin=margin))]
    assert torch.equal(outputs[0].loss, outputs[1].loss)


def test_moco__an_additive_margin_lowers_each_positive_by_it() -> None:
    model = small(margin=MarginConfig(name="am", value=0.1))
    output = model(views(0), PROGRESS)
    _, projections, keys = small().project(views(0)["views"])
    q, k = F.normalize(torch.stack(projections.chunk(2), 1), dim=2), F.normalize(keys, dim=2)
    losses = []
    for view, other in ((0, 1), (1, 0)):
        logits = moco_logits(q[:, view], k[:, other], model.queues[other].rows, 0.03)
        logits[:, 0] -= 0.1 / 0.03
        losses.append(F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64)))
    assert output.loss.item() == pytest.approx(sum(losses).item() / 2, rel=1e-5)


def test_moco__norms_of_anchors_are_those_before_normalisation() -> None:
    model = small(margin=MarginConfig(name="adaface"))
    model(views(0), PROGRESS)
    model.after_step(PROGRESS)
    _, projections, _ = small().project(views(0)["views"])
    norms = projections.norm(dim=1)
    expected = [0.99 * 20 + 0.01 * norms.mean().item(), 0.99 * 100 + 0.01 * norms.std().item()]
    assert model.margin.averages.tolist() == pytest.approx(expected)
