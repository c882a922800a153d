"""Real steps in this process, their batches made without Ray; the command is tested with Ray below."""

import copy
import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslsv.config import Config, DataConfig, ResourcesConfig, RunConfig, TrainConfig
from sslsv.data.pipeline import plain_batches
from sslsv.data.timed_views import DATA_SECTIONS
from sslsv.encoders import ThinResNet34
from sslsv.models import SimCLR
from sslsv.runs.folder import RunFolder
from sslsv.train import prepare_folder
from sslsv.training import step_profile, stopwatch
from sslsv.training.loop import Training
from sslsv.training.step_parts import STEP_SECTIONS
from sslsv.training.step_profile import profile_steps
from sslsv.training.stopwatch import Stopwatch
from tests.clock import Clock


@pytest.fixture
def config(demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=SimCLR.Config(crop_seconds=0.5),
        train=TrainConfig(epochs=1000, batch_size=4, log_every_steps=2),
        resources=ResourcesConfig(utterances_per_block=4, data_tasks=1),
        run=RunConfig(tensorboard=False),
    )


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_profile_steps__add_up_to_the_time_of_the_steps(config, tmp_path, monkeypatch, clock):
    folder = RunFolder(str(tmp_path), "run")
    prepare_folder(folder, config, is_fresh=False)
    training = Training(config, folder, device=torch.device("cpu"))
    steps, marks = 4, []

    def batches():
        for batch in plain_batches(training.plan, training.maker, 0, 6):
            marks.append(clock.now)
            yield batch

    forward = ThinResNet34.forward

    def slow_forward(self, waveforms):
        clock.sleep(0.05)
        return forward(self, waveforms)

    monkeypatch.setattr(ThinResNet34, "forward", slow_forward)
    before = torch.autograd.backward
    found = profile_steps(training, batches(), steps)
    whole = clock.now - marks[2]  # from when the first step that counts had its data
    assert torch.autograd.backward is before
    seconds = found["seconds"]
    assert tuple(seconds) == STEP_SECTIONS
    assert steps * sum(seconds.values()) == pytest.approx(whole, rel=0.02)
    assert seconds["forward"] > 0.05
    for name in ("features", "backward", "optimizer", "reporting"):
        assert seconds[name] > 0, name
    assert seconds["communication"] == 0
    assert training.state.step == 6
    assert len(folder.metrics()) == 3
    assert all(found["data_seconds"][name] > 0 for name in DATA_SECTIONS)
    assert dataclasses.asdict(training.config) == dataclasses.asdict(config)


def test_average_and_wait__is_a_hook_that_ddp_takes_and_counts_as_communication(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        plain = nn.Linear(3, 2)
        model, watch = DistributedDataParallel(copy.deepcopy(plain)), Stopwatch()
        model.register_comm_hook(watch, step_profile._average_and_wait)
        inputs = torch.randn(4, 3)
        with watch.section("backward"):
            model(inputs).square().sum().backward()
        plain(inputs).square().sum().backward()
        torch.testing.assert_close(model.module.weight.grad, plain.weight.grad)
        assert watch.seconds["communication"] > 0
    finally:
        dist.destroy_process_group()
