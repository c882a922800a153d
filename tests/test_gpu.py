"""Test what needs a GPU; skipped without one."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.methods import NoiseCorpus
from benchmarks.world_size import SIZE, noise_batch, small_settings
from sslsv import registry
from sslsv.config import Config, TrainConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.runs.folder import RunFolder
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import move, take_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda", 0)
FP32 = TrainConfig(batch_size=16)


def config_of(model: str, train: TrainConfig) -> Config:
    return Config(
        encoder=ThinResNet34.Config(width=8, embedding_dim=64),
        model=small_settings(model),
        train=train,
    )


def tones(count: int = 16) -> dict[str, torch.Tensor]:
    """Return two views per utterance, for two-view methods; utterances are easy to distinguish."""
    generator = torch.Generator().manual_seed(5)
    pitch = torch.linspace(200, 3000, count)[:, None, None]  # each utterance has its own
    tone = torch.sin(2 * torch.pi * pitch * torch.arange(9600) / 16000)
    samples = 5000 * tone + 500 * torch.randn(count, 2, 9600, generator=generator)
    return {"views": samples.to(torch.int16), "sample": torch.arange(count)}


def pinned(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


def steps_on(
    device: torch.device, config: Config, count: int, batch: dict[str, torch.Tensor] | None = None
) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = build_state(config, SIZE, device)
    network = wrap_model(state.model, config, device)
    batch = pinned(batch or noise_batch(state.model, torch.Generator().manual_seed(5)))
    options = {"config": config, "steps_per_epoch": 100, "device": device, "corpus": NoiseCorpus(SIZE)}
    return [take_step(state, network, batch, **options) for _ in range(count)]


@pytest.mark.parametrize("model", sorted(registry.names("models")))
def test_take_step__a_gpu_computes_what_the_cpu_does(model, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = config_of(model, FP32)
    (on_cpu,), (on_gpu,) = (steps_on(device, config, 1) for device in (torch.device("cpu"), GPU))
    assert on_gpu["loss"].item() == pytest.approx(on_cpu["loss"].item(), rel=1e-4)
    assert on_gpu["gradient_norm"].item() == pytest.approx(on_cpu["gradient_norm"].item(), rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", sorted(registry.names("models")))
def test_take_step__never_waits_for_the_gpu(model, precision):
    config = config_of(model, TrainConfig(batch_size=16, precision=precision, channels_last=True))
    state = build_state(config, SIZE, GPU)
    batch = pinned(noise_batch(state.model, torch.Generator().manual_seed(5)))
    options = {"config": config, "steps_per_epoch": 100, "device": GPU, "corpus": NoiseCorpus(SIZE)}
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step fills caches
        try:
            take_step(state, state.model, batch, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16", "channels_last": True},
        {"precision": "fp16", "channels_last": True},
        {"precision": "bf16", "recompute": True},
        pytest.param({"precision": "bf16", "channels_last": True, "compile": True}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: "_".join(map(str, settings)),
)
def test_take_step__every_precision_learns_a_batch(settings):
    steps = steps_on(GPU, config_of("simclr", TrainConfig(batch_size=16, **settings)), 30, tones())
    losses = torch.stack([step["loss"] for step in steps])
    assert losses.isfinite().all() and losses[-1] < 0.7 * losses[0]


def test_move__from_pinned_memory_arrives_whole_beside_other_work():
    tensor = torch.randint(-(2**15), 2**15, (64, 2, 32000), dtype=torch.int16).pin_memory()
    busy = torch.randn(2048, 2048, device=GPU)
    for _ in range(10):
        busy = busy @ busy / 50
        assert torch.equal(move(tensor, GPU).cpu(), tensor)


@pytest.mark.slow
def test_train__on_a_gpu_is_evaluated_on_a_cpu_and_on_the_gpu(demo_corpus, tmp_path):
    overrides = (
        f"data.root={demo_corpus} data.train_lists=[voxceleb2_train_list] encoder.width=4 train.epochs=3 train.batch_size=8 "
        f"evaluation.held_out_speakers=3 evaluation.every_epochs=1 train.precision=bf16 train.channels_last=true "
        f"run.storage={tmp_path} run.name=run run.wandb=disabled resources.gpu=true"
    )
    command = [sys.executable, "-m", "sslsv.train", "configs/demo.yml", *overrides.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunFolder(str(tmp_path), "run")
    summary = run.read_json("summary.json")
    assert summary["is_finished"] and "gpu" in summary["environment"]
    errors = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        command = [sys.executable, "-m", "sslsv.evaluate", run.location, "--device", device]
        command += ["--out", str(out), "--precision", "fp32"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        lists = json.loads((out / "evaluation.json").read_text())["lists"]["trials"]["scorings"]
        errors.append(lists["cosine"]["eer"]["value"])
    assert errors[0] == pytest.approx(errors[1], abs=0.5)
