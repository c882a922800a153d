"""Test the loop in this process, with batches made without Ray; test_end_to_end.py tests the command."""

import math
from unittest import mock

import pytest
import torch

from sslsv.evaluation.verification import Verification
from sslsv.models.base import CorpusSize, Model, StepOutput
from sslsv.ops import distributed
from sslsv.runs.checkpoint import find_checkpoint, list_checkpoints, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import apply_overrides
from sslsv.train import check_data, prepare_folder
from sslsv.training.loop import Interrupted, Training, is_any_asked
from sslsv.training.optim import build_optimizer
from sslsv.training.state import TrainingState
from sslsv.training.step import take_step
from sslsv.training.validation import TrainingError

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def config(small_config):
    probe = "{utterances: 8, views: 2, crop_seconds: 0.5}"
    changes = ["data.augment=[{name: reverb, probability: 0.5}, {name: noise, probability: 0.5}]"]
    changes += [f"evaluation={{every_epochs: 2, test: [trials], label_free: {probe}}}"]
    return apply_overrides(small_config, changes)


def training(config, tmp_path, name="run", **values):
    folder = RunFolder(str(tmp_path), name)
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    return Training(config, folder, device=torch.device("cpu"), **values)


def weights(tmp_path, name):
    folder = RunFolder(str(tmp_path), name)
    return read_checkpoint(folder, find_checkpoint(folder, "last"))


def stop_at(step, monkeypatch):
    """Interrupt the loop before `step`, as if its machine had failed."""
    original = Training.take_step

    def take_step(self, batch):
        if self.state.step == step:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Training, "take_step", take_step)
    return original


@pytest.mark.parametrize("dies_at", [4, 9])
def test_training__stopped_anywhere_it_goes_on_to_the_same_weights(config, tmp_path, monkeypatch, dies_at):
    """20 training utterances, 4 steps per epoch, 16 in total; checkpoints at all records, even in epochs."""
    config = apply_overrides(config, ["run.checkpoint_every_minutes=1e-9"])
    whole = training(config, tmp_path, "whole").run()
    original = stop_at(dies_at, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        training(config, tmp_path, "cut").run()
    monkeypatch.setattr(Training, "take_step", original)
    again = training(config, tmp_path, "cut")
    assert 0 < again.state.step <= dies_at
    summary = again.run()
    a, b = weights(tmp_path, "whole"), weights(tmp_path, "cut")
    assert a.step == b.step == 16
    assert all(torch.equal(weight, b.model[name]) for name, weight in a.model.items())
    assert summary["last"] == whole["last"] and summary["best"] == whole["best"]
    folders = [RunFolder(str(tmp_path), name) for name in ("whole", "cut")]
    keys = ("step", "loss", "eer", "label_free/lidar", "label_free/pseudo_eer", "best_value")
    values = [[[record.get(key) for key in keys] for record in folder.metrics()] for folder in folders]
    assert values[0] == values[1]


@pytest.mark.parametrize(("criterion", "best_of"), [("eer", min), ("label_free/rankme", max)])
def test_training__records_every_validation_and_keeps_the_best_checkpoint(
    criterion, best_of, config, tmp_path
):
    config = apply_overrides(config, [f"evaluation.criterion={criterion}"])
    summary = training(config, tmp_path).run()
    folder = RunFolder(str(tmp_path), "run")
    reports = [record for record in folder.metrics() if "eer" in record]
    assert [record["step"] for record in reports] == [8, 16]
    assert all({"eer", "min_dcf", "effective_rank", "feature_std"} <= record.keys() for record in reports)
    best = best_of(reports, key=lambda record: record[criterion])
    assert summary["best"]["step"] == best["step"]
    assert (summary["best"]["criterion"], summary["best"]["value"]) == (criterion, best[criterion])
    assert (reports[-1]["criterion"], reports[-1]["best_value"]) == (criterion, best[criterion])
    assert read_checkpoint(folder, find_checkpoint(folder, "best")).step == best["step"]
    assert weights(tmp_path, "run").step == 16


def without_trials(config, utterances):
    changes = ["evaluation.held_out_speakers=0", "evaluation.test=[]"]
    return apply_overrides(config, [*changes, f"evaluation.label_free.utterances={utterances}"])


def test_training__without_trials_the_label_free_values_are_logged_and_nothing_is_chosen(config, tmp_path):
    summary = training(without_trials(config, 8), tmp_path).run()
    validated = [r for r in RunFolder(str(tmp_path), "run").metrics() if "label_free/lidar" in r]
    assert [record["step"] for record in validated] == [12, 24]
    assert all("eer" not in record and "best_value" not in record for record in validated)
    names = {key.removeprefix("label_free/") for key in validated[0] if key.startswith("label_free/")}
    assert {"rankme", "lidar", "alignment", "uniformity", "feature_std", "pseudo_eer"} <= names
    assert summary["best"] == {}
    assert summary["trial_sets"]["label-free probe"]["utterances"] == 8


def test_training__the_probe_changes_nothing_of_the_training(config, tmp_path):
    training(without_trials(config, 8), tmp_path, "with").run()
    training(without_trials(config, 0), tmp_path, "without").run()
    a, b = weights(tmp_path, "with").model, weights(tmp_path, "without").model
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())


def test_training__steps_on_one_batch_learn_it(config, tmp_path):
    constant = ["optimizer={learning_rate: 1e-2, schedule: {name: constant}}"]
    loop = training(apply_overrides(config, constant), tmp_path)
    batch = next(loop.batches())
    losses = [loop.take_step(batch)["loss"].item() for _ in range(60)]
    assert losses[-1] < 0.5 * math.log(9)  # log(9) is the loss if the positive equals the 8 negatives


def test_training__a_loss_that_is_no_number_stops_it_with_a_sentence(config, tmp_path):
    wild = apply_overrides(config, ["optimizer={name: sgd, learning_rate: 1e30}"])
    with pytest.raises(TrainingError, match="optimizer.learning_rate"):
        training(wild, tmp_path).run()
    assert not list_checkpoints(RunFolder(str(tmp_path), "run"))


def test_training__test_lists_can_be_watched_without_choosing_anything(config, tmp_path):
    training(apply_overrides(config, ["evaluation.test_every_epochs=1"]), tmp_path).run()
    records = RunFolder(str(tmp_path), "run").metrics()
    assert [r["step"] for r in records if "test/trials/eer" in r] == [4, 8, 12]


def test_training__a_run_that_stopped_early_stays_stopped_and_says_so(config, tmp_path, monkeypatch):
    hopeless = Verification({"eer": 50.0, "min_dcf": 1.0}, torch.eye(4).numpy(), {})
    monkeypatch.setattr("sslsv.training.validation.verify", lambda embedder, t, replicates: hopeless)
    impatient = apply_overrides(config, ["train={epochs: 50, patience: 1}"])
    with monkeypatch.context() as patch:  # interrupted after the decision, before the summary
        patch.setattr(Training, "summarize", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training(impatient, tmp_path).run()
    summary = training(impatient, tmp_path).run()
    assert summary["last"]["step"] == 16 and "train.patience" in summary["stop_reason"]


def test_training__asked_to_stop_it_saves_that_very_step_and_goes_on_as_if_never_stopped(config, tmp_path):
    whole = training(config, tmp_path, "whole")
    whole.run()
    asked = iter([None, None, None, "the machine will go"])
    stopped = training(config, tmp_path, "stopped", asked_to_stop=lambda: next(asked, "the machine will go"))
    with pytest.raises(Interrupted, match="step 4: the machine will go"):
        stopped.run()
    assert weights(tmp_path, "stopped").step == 4  # not 3 or 6, the logged steps
    again = training(config, tmp_path, "stopped")
    assert again.state.step == 4
    again.run()
    for name, weight in weights(tmp_path, "whole").model.items():
        assert torch.equal(weight, weights(tmp_path, "stopped").model[name]), name
    steps = [record["step"] for record in again.folder.metrics()]
    assert steps == sorted({*(record["step"] for record in whole.folder.metrics()), 4})


def test_training__asked_to_stop_at_the_last_step_it_finishes(config, tmp_path):
    total = training(config, tmp_path).total_steps
    done = training(config, tmp_path, "done")
    done.asked_to_stop = lambda: "too late" if done.state.step == total else None
    assert done.run()["is_finished"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model.name": "cpc", "model.num_steps": 500}, "lower it, or raise model.crop_seconds"),
        (
            {"data.speeds": [1.0, 0.9], "data.speeds_are_classes": True},
            r"data.speeds_are_classes is true, but \w+ sees no labels",
        ),
        ({"encoder.frozen": True}, "set encoder.frozen to false, or give the method a projector"),
    ],
)
def test_training__what_a_method_cannot_do_ends_it_with_a_sentence(config, tmp_path, settings, sentence):
    folder, config = RunFolder(str(tmp_path), "run"), apply_overrides(config, settings)
    with pytest.raises(TrainingError, match=sentence):  # other errors count as crashes, which are retried
        Training(config, folder, device=torch.device("cpu"))


class Slopes(Model):
    """Hold three weights with gradient 3 and different rates; hooks record the first weight and gradient."""

    def __init__(self):
        super().__init__(None)
        self.encoder, self.notes = torch.nn.ParameterList(torch.ones(3).split(1)), []

    def forward(self, batch, progress):
        return StepOutput(3 * sum(each.sum() for each in self.encoder), {})

    def parameter_groups(self):
        keys = {}, {"rate_scale": 0.5}, {"follows_schedule": False}
        return [{"params": [each], **key} for each, key in zip(self.encoder, keys, strict=True)]

    def before_step(self, progress):
        self.notes.append((self.encoder[0].item(), self.encoder[0].grad.item()))

    after_step = before_step


def step_of_slopes(config, clip_norm="null"):
    """Return the model after the second of three steps, at half the peak rate, with fp16's loss scaling."""
    changes = "{name: sgd, momentum: 0, learning_rate: 0.2, clip_norm: %s, schedule: {name: cosine, min_learning_rate: 0}}"
    config = apply_overrides(config, [f"optimizer={changes % clip_norm}", "train.epochs=3"])
    model = Slopes()
    optimizer = build_optimizer(model.parameter_groups(), config.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    state = TrainingState(model=model, optimizer=optimizer, scaler=scaler, size=CorpusSize(), step=1)
    take_step(state, model, {}, config=config, steps_per_epoch=1, device=torch.device("cpu"), corpus=None)
    return model


def test_take_step__hooks_see_unscaled_gradients_first_and_moved_weights_last(small_config):
    before, after = step_of_slopes(small_config).notes
    assert before == pytest.approx((1.0, 3.0)) and after == pytest.approx((1.0 - 0.1 * 3.0, 3.0))


def test_take_step__clips_all_gradients_after_the_hook_of_the_method(small_config):
    before, after = step_of_slopes(small_config, clip_norm="1.0").notes
    assert before[1] == pytest.approx(3.0) and after[1] == pytest.approx(1 / math.sqrt(3), rel=1e-5)


def test_take_step__a_group_has_the_rate_of_its_factor_or_the_highest(small_config):
    moved = [1 - weight.item() for weight in step_of_slopes(small_config).encoder]
    assert moved == pytest.approx([0.1 * 3, 0.05 * 3, 0.2 * 3], rel=1e-5)


@pytest.mark.parametrize(("every", "step", "is_stopped"), [(1, 1, True), (8, 7, False), (8, 8, True)])
def test_is_any_asked__one_rank_that_is_asked_stops_all_after_the_same_step(
    monkeypatch, every, step, is_stopped
):
    monkeypatch.setattr("sslsv.training.loop.ASK_EVERY_STEPS", {"cpu": every})
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda asked: asked + 1)  # the other rank is asked
    assert is_any_asked(False, step, torch.device("cpu")) is is_stopped
