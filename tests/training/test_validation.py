import contextlib
import math

import numpy as np
import pytest
import torch

from sslsv.config import CollapseConfig, Config, EvaluationConfig, TrainConfig
from sslsv.data.lists import Trials
from sslsv.data.section import DataConfig
from sslsv.evaluation.trials import TrialSet
from sslsv.evaluation.verification import Embedder
from sslsv.ops import distributed
from sslsv.training.state import TrainingState
from sslsv.training.validation import (
    TrainingError,
    check_bad_share,
    check_finite,
    note_best,
    reason_to_stop,
    start_together,
    validate,
)


def state(**values):
    return TrainingState(model=None, optimizer=None, scaler=None, size=None, step=30, **values)


def config(**train):
    return Config(train=TrainConfig(**train), evaluation=EvaluationConfig(held_out_speakers=2))


def test_reason_to_stop__patience_counts_validations_without_a_better_value():
    patient = config(patience=3)
    record = {"batch_feature_std": 1.0, "feature_std": 1.0}
    assert reason_to_stop(dict(record), state(best_value=9.0, validations_without_gain=2), patient) is None
    reason = reason_to_stop(dict(record), state(best_value=9.0, validations_without_gain=3), patient)
    assert "eer has not improved in 3 validations (train.patience); the best is 9." in reason


@pytest.mark.parametrize(
    ("action", "is_stopped", "is_marked"), [("warn", 0, 1), ("stop", 1, 1), ("ignore", 0, 0)]
)
def test_reason_to_stop__a_collapse_is_marked_and_stops_if_asked(action, is_stopped, is_marked):
    record = {"batch_feature_std": 0.9, "feature_std": 0.001}
    reason = reason_to_stop(record, state(), config(collapse=CollapseConfig(action=action)))
    assert (reason is not None) == is_stopped
    assert record.get("has_collapsed", False) == is_marked


def test_reason_to_stop__without_validation_the_batches_tell_of_a_collapse():
    record = {"batch_feature_std": 0.001}
    reason_to_stop(record, state(), config())
    assert record["has_collapsed"] and "collapsed" in record["notice"]


def chosen_by(criterion, **train):
    evaluation = EvaluationConfig(held_out_speakers=2, criterion=criterion)
    return Config(train=TrainConfig(**train), evaluation=evaluation)


@pytest.mark.parametrize(
    ("criterion", "better", "worse"), [("eer", 8.0, 10.0), ("label_free/lidar", 10.0, 8.0)]
)
def test_note_best__knows_which_way_is_better(criterion, better, worse):
    record = {"feature_std": 0.5}
    kept = state()
    for value, best, without_gain in [(9.0, 9.0, 0), (worse, 9.0, 1), (9.0, 9.0, 2), (better, better, 0)]:
        note_best({**record, criterion: value}, criterion, kept, chosen_by(criterion))
        assert (kept.best_value, kept.validations_without_gain) == (best, without_gain)
    assert kept.best_step == 30


def test_note_best__a_collapsed_model_wins_no_rank():
    kept = state()
    collapsed = {"label_free/feature_std": 0.001, "label_free/lidar": 500.0}
    note_best(collapsed, "label_free/lidar", kept, chosen_by("label_free/lidar"))
    assert (kept.best_value, kept.best_step, kept.validations_without_gain) == (None, None, 1)
    impatient = chosen_by("label_free/lidar", patience=1)
    assert reason_to_stop(collapsed, kept, impatient).endswith("none yet.")


@pytest.mark.parametrize(
    ("loss", "weight", "sentence"),
    [
        (1.0, 1.0, None),
        (math.nan, 1.0, r"loss became nan by step 7 .*clip_norm"),
        (1.0, math.nan, r"weights became infinite or NaN by step 7 .*was saved before that"),
        (1.0, math.inf, r"weights became infinite or NaN"),
    ],
)
def test_check_finite__what_is_broken_is_never_saved(loss, weight, sentence):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, weight)
    record = {"loss": loss, "step": 7, "gradient_norm": 1e9, "learning_rate": 0.1}
    with pytest.raises(TrainingError, match=sentence) if sentence else contextlib.nullcontext():
        check_finite(record, model, config())


class Overflowing(torch.nn.Module):
    """Return infinite embeddings, which float16 may give even with a finite loss."""

    embedding_dim, min_samples = 2, 1

    def embed(self, waveforms):
        return torch.full((len(waveforms), 2), math.inf)


def test_validate__embeddings_that_are_not_finite_end_the_training_with_a_sentence():
    pair = np.array([0, 1])
    trials = Trials(paths=["a", "b"], enrol=pair, test=pair[::-1], targets=np.array([True, False]))
    trial_set = TrialSet("validation", trials, lambda i: np.zeros(4, dtype=np.float32))
    embedder = Embedder(Overflowing(), torch.device("cpu"), "fp32", 1.0)
    with pytest.raises(TrainingError, match=r"2 of 2 embeddings are not finite.*optimizer\.learning_rate"):
        validate(embedder, trial_set, None, state(), config())


def test_check_bad_share__names_every_bad_recording():
    settings = Config(data=DataConfig(max_bad_share=0.1))
    check_bad_share({"a": "a is empty."}, 1, settings)  # allowed: it may be the first of a million
    check_bad_share({"a": "a is empty.", "b": "b is no audio."}, 20, settings)
    with pytest.raises(TrainingError, match=r"2 of the 19 (.|\n)*a is empty\.\n +b is no audio\."):
        check_bad_share({"a": "a is empty.", "b": "b is no audio."}, 19, settings)


def test_start_together__a_worker_without_the_data_stops_all_with_its_sentence(monkeypatch):
    def missing():
        raise FileNotFoundError("The folder /data does not exist.")

    sentence = r"Training worker 0 on .* can't start: The folder /data does not exist\."
    with pytest.raises(TrainingError, match=sentence) as caught:
        start_together(missing)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    start_together(lambda: None)  # no worker fails, so nothing happens
    of_another = "Training worker 1 can't start.", True
    monkeypatch.setattr(distributed, "gather_objects", lambda value: [value, of_another])
    with pytest.raises(TrainingError, match="Training worker 1 can't start.") as caught:
        start_together(lambda: None)  # this worker succeeds, another one fails
    assert isinstance(caught.value.__cause__, OSError)  # as on the failing worker
