import copy
import dataclasses

import pytest
import torch

from sslsv.config import Config, DataConfig, ResourcesConfig, RunConfig, TrainConfig
from sslsv.data.pipeline import plain_batches
from sslsv.data.timed_views import DATA_SECTIONS
from sslsv.encoders import ThinResNet34
from sslsv.models import SimCLR
from sslsv.runs.folder import RunFolder
from sslsv.train import prepare_folder
from sslsv.training.loop import Training
from sslsv.training.meter import Meter
from sslsv.training.step_parts import STEP_SECTIONS, StepParts


@pytest.fixture
def config(demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=SimCLR.Config(crop_seconds=0.5),
        train=TrainConfig(epochs=10, batch_size=4, log_every_steps=3),
        resources=ResourcesConfig(utterances_per_block=4, data_tasks=1),
        run=RunConfig(tensorboard=False),
    )


def open_training(config, storage):
    folder = RunFolder(str(storage), "run")
    prepare_folder(folder, config, is_fresh=False)
    return Training(config, folder, device=torch.device("cpu"))


@pytest.fixture
def training(config, tmp_path):
    return open_training(config, tmp_path)


def test_timing__tells_the_parts_of_a_step_and_changes_no_bit_of_it(training, clock, monkeypatch):
    def batches():
        for batch in plain_batches(training.plan, training.maker, 0, 3):
            del batch["bad_utterance"], batch["bad_bank_file"], batch["making_seconds"]
            yield batch

    start = copy.deepcopy(training.state.model.state_dict())
    for batch in batches():
        training.take_step(batch)
    untimed = copy.deepcopy(training.state.model.state_dict())
    forward = ThinResNet34.forward

    def slow_forward(self, waveforms):
        clock.sleep(0.5)
        return forward(self, waveforms)

    monkeypatch.setattr(ThinResNet34, "forward", slow_forward)
    training.state.model.load_state_dict(start)
    training.state.optimizer.state.clear()
    training.state.step = 0
    parts = StepParts(training.state, training.model, training.device)
    for batch in batches():
        with parts.timing():
            training.take_step(batch)
    assert all(torch.equal(untimed[name], value) for name, value in training.state.model.state_dict().items())
    assert "forward" not in vars(training.model) and "step" not in vars(training.state.optimizer)
    seconds = parts.describe(training.meter, 4)["seconds"]
    assert tuple(seconds) == STEP_SECTIONS
    assert sum(seconds.values()) == pytest.approx(clock.now / 3, rel=1e-4)
    assert seconds["forward"] == pytest.approx(0.5, rel=1e-3)
    for name in ("transfer", "features", "backward", "optimizer"):
        assert seconds[name] > 0, name


def test_timing__of_a_step_in_chunks_counts_the_first_pass_and_the_loss_to_the_model(
    config, tmp_path, clock, monkeypatch
):
    chunks = dataclasses.replace(config.train, chunk_size=2, sync_batchnorm=False)
    training = open_training(dataclasses.replace(config, train=chunks), tmp_path)
    project, grad = SimCLR.project, torch.autograd.grad

    def slow_project(self, views):
        clock.sleep(0.5)
        return project(self, views)

    def slow_gradient(*given):
        clock.sleep(0.25)
        return grad(*given)

    monkeypatch.setattr(SimCLR, "project", slow_project)
    monkeypatch.setattr(torch.autograd, "grad", slow_gradient)
    parts = StepParts(training.state, training.model, training.device)
    batch = next(plain_batches(training.plan, training.maker, 0, 1))
    del batch["bad_utterance"], batch["bad_bank_file"], batch["making_seconds"]
    with parts.timing():
        training.take_step(batch)
    seconds = parts.describe(training.meter, 4)["seconds"]
    assert seconds["forward"] == pytest.approx(2.0, rel=1e-3)  # two chunks, twice each
    assert seconds["backward"] == pytest.approx(0.25, rel=1e-2)
    assert seconds["transfer"] < 0.01


def test_describe__counts_timed_rows_alone_and_waiting_of_all_steps():
    model = torch.nn.Linear(2, 2)
    state = dataclasses.make_dataclass("State", ["model", "optimizer"])(
        model, torch.optim.SGD(model.parameters())
    )
    parts = StepParts(state, model, torch.device("cpu"))
    meter = Meter(batch_size=8, total_steps=9, steps_per_epoch=3, first_step=0, seconds=0.0)
    assert parts.describe(meter, 4) == {"timed_steps": 0, "seconds": {}, "data_seconds": {}}
    seconds = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(3, -1)
    parts.add_making(torch.zeros(3, len(DATA_SECTIONS)))
    parts.add_making(seconds)
    found = parts.describe(meter, 6)["data_seconds"]
    assert found == pytest.approx(dict(zip(DATA_SECTIONS, (0.6, 1.2, 1.8, 2.4), strict=True)))
    meter.waited_total, meter.step = 3.0, 6
    with parts.timing():
        pass
    assert parts.describe(meter, 6)["seconds"]["waiting for data"] == 0.5


@pytest.mark.parametrize(("step", "is_timed"), [(0, False), (1, False), (2, True), (5, True), (6, False)])
def test_is_timed_step__is_the_last_before_a_record(training, step, is_timed):
    training.state.step = step
    assert training.is_timed_step() == is_timed
    epoch = training.plan.steps_per_epoch
    training.state.step = epoch - 1
    assert training.is_timed_step()


def test_is_timed_step__is_never_one_of_a_compiled_model_nor_the_first(training):
    training.config = dataclasses.replace(
        training.config, train=dataclasses.replace(training.config.train, log_every_steps=1)
    )
    assert not training.is_timed_step()
    training.state.step = 1
    assert training.is_timed_step()
    training.config = dataclasses.replace(
        training.config, train=dataclasses.replace(training.config.train, compile=True)
    )
    assert not training.is_timed_step()
