"""Chunks must add up to the batch: loss, every gradient, running statistics, for every model."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is not part of the installed package
from benchmarks import gradient_accumulation as accumulation  # noqa: E402
from benchmarks.world_size import relative_error  # noqa: E402
from sslsv.config import Config, EvaluationConfig, LabelFreeConfig, RunConfig, TrainConfig
from sslsv.data.section import DataConfig  # noqa: E402
from sslsv.encoders.thin_resnet34 import ThinResNet34  # noqa: E402
from sslsv.models.base import Progress  # noqa: E402
from sslsv.models.vibcreg import VIbCReg  # noqa: E402
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint  # noqa: E402
from sslsv.runs.folder import RunFolder  # noqa: E402
from sslsv.train import prepare_folder  # noqa: E402
from sslsv.training import loop as train_loop  # noqa: E402
from sslsv.training.cached_gradients import ChunkReplay, backward_in_chunks  # noqa: E402
from sslsv.training.loop import Training  # noqa: E402
from sslsv.training.step import take_step  # noqa: E402

torch.set_num_threads(1)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_backward_in_chunks__equals_the_undivided_batch_and_as_many_workers(ranks: int) -> None:
    errors = accumulation.measure(ranks, 2)
    assert set(errors) == {(name, kind) for name in accumulation.METHODS for kind in ("undivided", "workers")}
    for case, values in errors.items():
        assert {"loss", "gradient"} <= values.keys()
        assert max(values.values()) <= 1e-6, (case, values)


@pytest.mark.parametrize("num_chunks", [4, 8])
@pytest.mark.parametrize("name", accumulation.METHODS)
def test_backward_in_chunks__any_number_of_chunks_is_the_undivided_batch(name: str, num_chunks: int) -> None:
    result, expected = (
        accumulation.step(name, "undivided", num_chunks),
        accumulation.step(name, "undivided", 1),
    )
    for part in ("loss", "gradient"):
        assert relative_error(result[part], expected[part]) <= 1e-6


def test_backward_in_chunks__the_check_sees_statistics_that_are_not_the_same() -> None:
    result, expected = accumulation.step("vicreg", "workers", 2), accumulation.step("vicreg", "workers", 1)
    assert relative_error(result["gradient"], expected["gradient"]) > 1e-2


def test_backward_in_chunks__both_passes_need_the_same_draws() -> None:
    model = accumulation.build_model("simclr", "workers")
    gradients = {}
    for is_repeated in (True, False):
        model.zero_grad()
        seeds = iter(range(100))
        output = backward_in_chunks(
            ChunkReplay(model),
            {"views": accumulation.views()},
            Progress(0, 1, 0, 1),
            4,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            autocast=contextlib.nullcontext,
            seed_chunk=lambda chunk, r=is_repeated, s=seeds: torch.manual_seed(chunk if r else next(s)),
        )
        assert not output.loss.requires_grad
        gradients[is_repeated] = {n: p.grad.clone() for n, p in model.named_parameters()}
    assert relative_error(gradients[False], gradients[True]) > 1e-2


def test_backward_in_chunks__gradients_carry_the_scale_of_the_scaler() -> None:
    gradients = []
    for scaler in (
        torch.amp.GradScaler("cpu", enabled=False),
        torch.amp.GradScaler("cpu", init_scale=1024.0),
    ):
        model = accumulation.build_model("vibcreg", "undivided")
        backward_in_chunks(
            ChunkReplay(model),
            {"views": accumulation.views()},
            Progress(0, 1, 0, 1),
            4,
            scaler=scaler,
            autocast=contextlib.nullcontext,
            seed_chunk=torch.manual_seed,
        )
        gradients.append({n: p.grad / scaler.get_scale() for n, p in model.named_parameters()})
    assert relative_error(gradients[1], gradients[0]) < 1e-12


def run(config: Config, folder: RunFolder) -> dict[str, torch.Tensor]:
    prepare_folder(folder, config, is_fresh=False)
    Training(config, folder, device=torch.device("cpu")).run()
    return read_checkpoint(folder, find_checkpoint(folder, "last")).model


@pytest.mark.usefixtures("without_ray")
def test_training__in_chunks_a_cut_run_goes_on_to_the_same_weights(
    demo_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_at_seven(state, *arguments, **settings):
        if state.step == 7:
            raise KeyboardInterrupt
        return take_step(state, *arguments, **settings)

    train = TrainConfig(epochs=2, batch_size=8, log_every_steps=2, precision="bf16", channels_last=True)
    train = dataclasses.replace(train, chunk_size=4, sync_batchnorm=False, recompute=True)
    config = Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=VIbCReg.Config(crop_seconds=0.3, projector_dims=(8, 8), whitening_groups=2),
        train=train,
        evaluation=EvaluationConfig(label_free=LabelFreeConfig(utterances=0)),
        run=RunConfig(tensorboard=False, checkpoint_every_minutes=1e-9),
    )
    whole = run(config, RunFolder(str(tmp_path), "whole"))
    cut = RunFolder(str(tmp_path), "cut")
    monkeypatch.setattr(train_loop, "take_step", die_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run(config, cut)
    monkeypatch.setattr(train_loop, "take_step", take_step)
    assert read_checkpoint(cut, find_checkpoint(cut, "last")).step == 6
    again = run(config, cut)
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
