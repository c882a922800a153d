"""Chunks must add up to the batch: loss, every gradient, running statistics, for every model."""

from pathlib import Path

import pytest
import torch

from benchmarks import gradient_accumulation as accumulation
from benchmarks.world_size import relative_error
from sslsv.config import Config
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import apply_overrides
from sslsv.train import check_data, prepare_folder
from sslsv.training import loop as train_loop
from sslsv.training.loop import Training
from sslsv.training.step import take_step
from tests.models.networks import PROGRESS, step


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_backward_in_chunks__equals_the_undivided_batch_and_as_many_workers(ranks: int) -> None:
    errors = accumulation.measure(ranks, 2)
    assert set(errors) == {(name, kind) for name in accumulation.METHODS for kind in ("undivided", "workers")}
    for case, values in errors.items():
        assert {"loss", "gradient"} <= values.keys()
        assert max(values.values()) <= 1e-6, (case, values)


def test_backward_in_chunks__the_check_sees_statistics_that_are_not_the_same() -> None:
    result, expected = accumulation.step("vicreg", "workers", 2), accumulation.step("vicreg", "workers", 1)
    assert relative_error(result["gradient"], expected["gradient"]) > 1e-2


def test_backward_in_chunks__both_passes_need_the_same_draws() -> None:
    model = accumulation.build_model("simclr", "workers")
    gradients = {}
    for is_repeated in (True, False):
        model.zero_grad()
        seeds = iter(range(100))
        output = step(
            model,
            {"views": accumulation.views()},
            PROGRESS,
            4,
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
        step(model, {"views": accumulation.views()}, PROGRESS, 4, scaler=scaler)
        gradients.append({n: p.grad / scaler.get_scale() for n, p in model.named_parameters()})
    assert relative_error(gradients[1], gradients[0]) < 1e-12


def run(config: Config, folder: RunFolder) -> dict[str, torch.Tensor]:
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    Training(config, folder, device=torch.device("cpu")).run()
    return read_checkpoint(folder, find_checkpoint(folder, "last")).model


@pytest.mark.usefixtures("without_ray")
def test_training__in_chunks_a_cut_run_goes_on_to_the_same_weights(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_at_seven(state, *arguments, **settings):
        if state.step == 7:
            raise KeyboardInterrupt
        return take_step(state, *arguments, **settings)

    chunks = "chunk_size: 4, sync_batchnorm: false, precision: bf16, channels_last: true, recompute: true"
    changes = [f"train={{epochs: 2, batch_size: 8, log_every_steps: 2, {chunks}}}"]
    changes += ["model={name: vibcreg, crop_seconds: 0.3, projector_dims: [8, 8], whitening_groups: 2}"]
    changes += ["evaluation.held_out_speakers=0", "run.checkpoint_every_minutes=1e-9"]
    config = apply_overrides(small_config, changes)
    whole = run(config, RunFolder(str(tmp_path), "whole"))
    cut = RunFolder(str(tmp_path), "cut")
    monkeypatch.setattr(train_loop, "take_step", die_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run(config, cut)
    monkeypatch.setattr(train_loop, "take_step", take_step)
    assert read_checkpoint(cut, find_checkpoint(cut, "last")).step == 6
    again = run(config, cut)
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
