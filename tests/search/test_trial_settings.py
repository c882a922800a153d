"""Test settings of trials and rungs made from spaces, and check every space of the project."""

import dataclasses
from pathlib import Path

import pytest
from ray import tune

from sslsv import registry
from sslsv.config import Config, DataConfig, EvaluationConfig, TrainConfig, to_yaml
from sslsv.search import Asha, Space
from sslsv.search.schedulers import History
from sslsv.search.searchers import Searcher
from sslsv.search.space import load_space
from sslsv.search.trial_settings import base_config, check_trials, rungs_of, trial_config, with_overrides
from sslsv.settings import leaves_of

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted((ROOT / "tune_spaces").rglob("*.py"))
BASE = Config(
    train=TrainConfig(epochs=40, patience=5),
    evaluation=EvaluationConfig(every_epochs=2, held_out_speakers=4, test=("trials",)),
)


PARTS = {"data.fraction": tune.choice([0.5, 1.0])}


def space(**changes):
    parameters = {"model.temperature": tune.loguniform(0.01, 1.0)}
    return Space(**{"base": "a.yml", "parameters": parameters, "trials": 4} | changes)


def check(searched, base=BASE):
    check_trials(searched, base, Searcher(searched, base))


@pytest.fixture
def based(tmp_path):
    """Return a function that makes spaces whose base is a file."""
    (tmp_path / "a.yml").write_text(to_yaml(BASE))
    return lambda **changes: space(base=str(tmp_path / "a.yml"), **changes)


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_spaces_of_the_project__fit_their_base_and_draw_valid_trials(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    searched = load_space(file)
    base = base_config(searched)
    searcher = Searcher(searched, base)
    check_trials(searched, base, searcher)
    assert rungs_of(searched, base)[-1] == base.train.epochs
    for index in range(min(searcher.num_trials, 20)):
        trial_config(base, searched, searcher.choose(index, {}, History()))
    assert f"sslsv tune {file.relative_to(ROOT)}" in file.read_text()


def test_spaces_of_the_project__there_is_one_for_every_model():
    assert {file.stem for file in SPACES} >= set(registry.names("models"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parameters": {"model.temprature": tune.uniform(0.1, 1)}}, "did you mean model.temperature"),
        (
            {"parameters": {"model.temperature": tune.uniform(0, 1)}},
            "model.temperature=0.0, which the space allows",
        ),
        ({"parameters": {"train.batch_size": tune.uniform(8, 16.5)}}, "should be a whole number"),
        (
            {"parameters": PARTS, "metric": "label_free/lidar"},  # needs equal utterances in all trials
            "data.fraction can't be searched: label_free/lidar is measured with",
        ),
        (
            {"alternatives": {"a": {}, "b": {"encoder.frozn": True}}},
            "alternative='b', which the space allows: encoder.frozn is not a setting; did you mean encoder.frozen",
        ),
    ],
)
def test_check_trials__mistakes_are_sentences(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(space(**changes))
    check(space(parameters=PARTS))


def test_check_trials__held_out_recordings_are_heard_in_the_same_rooms_and_noises_by_all_trials():
    augment = [[], [{"name": "noise"}], [{"name": "noise", "probability": 0.5}]]
    shifted = dataclasses.replace(BASE.evaluation, held_out_is_shifted=True)
    base = dataclasses.replace(
        BASE,
        data=DataConfig(augment=({"name": "noise"},)),
        evaluation=shifted,  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match="data.augment can't be searched: eer is measured with the rooms"):
        check(space(parameters={"data.augment": tune.choice(augment)}), base)
    check(space(parameters={"data.augment": tune.choice(augment[1:])}), base)
    check(space(parameters={"data.augment": tune.choice(augment)}))  # allowed without shifts


def test_check_trials__a_metric_that_would_not_be_computed_is_refused():
    without_trials = Config(train=TrainConfig(epochs=40))
    with pytest.raises(ValueError, match="nothing gives it values"):
        check(space(), without_trials)
    check(space(metric="label_free/lidar"), without_trials)


def test_check_trials__a_base_outside_of_the_space_cannot_be_tried_first():
    temperature = BASE.model.temperature
    check(space(tries_base_first=True))
    narrow = {"model.temperature": tune.uniform(2 * temperature, 1.0)}
    with pytest.raises(ValueError, match=f"model.temperature is {temperature} in the base, outside the"):
        check(space(parameters=narrow, tries_base_first=True))
    check(space(parameters=narrow))


def test_trial_config__never_looks_at_test_trials_and_ends_when_collapsed():
    trial = trial_config(BASE, space(metric="label_free/lidar"), {"model.temperature": 0.5})
    assert trial.evaluation.test == () and trial.train.patience is None and trial.model.temperature == 0.5
    assert trial.train.collapse.action == "stop" and trial.evaluation.criterion == "label_free/lidar"
    assert trial.train.epochs == 40  # length of the schedule, even if the trial stops earlier


def test_rungs_of__end_with_training_and_are_where_there_is_a_validation():
    assert rungs_of(space(), BASE) == (40,)
    assert rungs_of(space(scheduler=Asha(3), rung_epochs=(10, 20)), BASE) == (10, 20, 40)
    for rung, sentence in {
        5: "at multiples of evaluation.every_epochs = 2",
        40: "below train.epochs",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            rungs_of(space(scheduler=Asha(), rung_epochs=(rung,)), BASE)


def test_base_config__the_command_line_comes_after_the_space_and_the_space_after_the_yaml(based):
    searched = based(settings={"train.epochs": 20, "seed": 3})
    base = base_config(with_overrides(searched, ["train.epochs=10"]))
    assert (base.train.epochs, base.seed, base.train.patience) == (10, 3, 5)


def test_with_overrides__what_the_space_searches_or_the_sweep_names_is_refused():
    sections = [{"name": "vicreg", "projector_dims": [8]}, {"name": "simclr"}]
    whole = space(parameters={"model": tune.choice(sections)})
    for searched, override in ((space(), "model={temperature: 0.1}"), (whole, "model.projector_dims=[4]")):
        with pytest.raises(ValueError, match="is given, but the space searches model.*; change it there"):
            with_overrides(searched, [override])
    with pytest.raises(ValueError, match="run.name is given.*--name"):
        with_overrides(space(), ["run={name: a}"])
    assert with_overrides(whole, ["seed=3"]).settings == {"seed": 3}


WAYS = {"scratch": {"encoder.init": None, "encoder.rate_scale": 1.0}, "tuned": {"encoder.rate_scale": 0.1}}


def test_with_overrides__only_what_each_alternative_sets_is_refused(based):
    searched = based(alternatives=WAYS)
    with pytest.raises(ValueError, match="encoder.rate_scale is given, but each alternative of the space"):
        with_overrides(searched, ["encoder.rate_scale=0.5"])
    changed = with_overrides(searched, ["encoder.init=runs/a"])
    trials = [trial_config(base_config(changed), changed, {"alternative": name}).encoder for name in WAYS]
    assert [(each.init, each.rate_scale) for each in trials] == [(None, 1.0), ("runs/a", 0.1)]


def test_trial_config__another_method_keeps_what_all_trials_share(based):
    searched = based(
        settings={"model.projector_dims": [64, 64], "model.crop_seconds": 4.0},
        parameters={"model.name": tune.choice(["simclr", "vicreg"])},
    )
    fixed = with_overrides(searched, ["model.crop_seconds=3.0", "model.temperature=0.5"])
    base = base_config(fixed)
    simclr, vicreg = (trial_config(base, fixed, {"model.name": name}).model for name in ("simclr", "vicreg"))
    assert (simclr.crop_seconds, simclr.projector_dims, simclr.temperature) == (3.0, (64, 64), 0.5)
    assert (vicreg.name, vicreg.crop_seconds, vicreg.projector_dims) == ("vicreg", 3.0, (64, 64))
    own = trial_config(base, fixed, {"model.name": "vicreg", "model.projector_dims": [32]})
    assert own.model.projector_dims == (32,)
    whole = trial_config(base, fixed, {"model": {"name": "vicreg", "projector_dims": [32]}})
    assert (whole.model.crop_seconds, whole.model.projector_dims) == (3.0, (32,))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("evaluation.criterion=label_free/lidar", r"but a sweep sets it to 'eer'; leave it out"),
        ("train.patience=5", "train.patience is 5, but a sweep sets it to empty"),
        ("train.collapse={action: ignore}", "is 'ignore', but a sweep sets it to 'stop'"),
        ("evaluation.allow_validation_on_test=true", "a sweep would select its best by the test"),
    ],
)
def test_base_config__what_every_trial_sets_by_itself_cannot_be_asked_for(based, override, sentence):
    with pytest.raises(ValueError, match=sentence):
        base_config(based(settings=dict(leaves_of([override]))))
    assert base_config(based(settings={"evaluation.criterion": "eer"})).evaluation.criterion == "eer"
