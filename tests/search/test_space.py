"""Spaces: what they may hold, and every mistake in a sentence."""

import numpy as np
import pytest
from ray import tune

from sslsv.search import Asha, Halving, Hyperband, Space, TopK, When
from sslsv.search.dimensions import Choice, Interval, read_dimension
from sslsv.search.space import load_space

TEMPERATURE = {"model.temperature": tune.loguniform(0.01, 1.0)}


def space(**changes):
    return Space(**{"base": "a.yml", "parameters": TEMPERATURE, "trials": 4} | changes)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (tune.uniform(0, 2), Interval(0, 2)),
        (tune.loguniform(1e-4, 1e-2), Interval(1e-4, 1e-2, is_logarithmic=True)),
        (tune.quniform(0, 1, 0.25), Interval(0, 1, step=0.25)),
        (tune.randint(1, 4), Interval(1, 3, is_integer=True)),  # Ray excludes the end
        (tune.qrandint(2, 8, 2), Interval(2, 8, is_integer=True, step=2)),  # but not here
        (tune.lograndint(1, 9), Interval(1, 8, is_integer=True, is_logarithmic=True)),
        (tune.choice([[1], []]), Choice(([1], []))),
        (tune.grid_search([1, 2]), Choice((1, 2), is_grid=True)),
        (tune.choice([(8, 8), np.int64(3)]), Choice(([8, 8], 3))),  # as a file gives them back
    ],
)
def test_read_dimension__ray_samplers_become_dimensions(written, expected):
    assert read_dimension("a", written) == expected


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (0.1, "which is no range of values; use"),
        (tune.randn(0, 1), "normal distribution"),
        (tune.qloguniform(1e-3, 1, 1e-3), "both logarithmic and in steps"),
        (tune.sample_from(lambda spec: 1), "no range of values"),
        (tune.choice([]), "no values to choose from"),
        (tune.choice([1, {2, 3}]), "a value to choose from that is no plain value"),
        (tune.randint(3, 3), "must not be above"),
    ],
)
def test_read_dimension__what_no_searcher_can_use_is_refused(written, sentence):
    with pytest.raises(ValueError, match=f"model.x .*{sentence}"):
        read_dimension("model.x", written)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "test/trials/eer"}, "test trials, which never choose"),
        ({"metric": "err"}, "did you mean 'eer'"),
        ({"metric": ["eer", "label_free/lidr"]}, "did you mean 'label_free/lidar'"),
        ({"searcher": "optuna"}, "not known; choose one of 'random', 'grid', 'tpe'"),
        ({"startup_trials": 5}, "startup_trials is 5, but the searcher is 'random'.*use searcher 'tpe'"),
        ({"searcher": "tpe", "scheduler": Halving(), "grace_epochs": 2}, "Halving starts all at once"),
        ({"trials": None}, "say how many"),
        ({"searcher": "grid"}, "tries every combination once"),
        ({"searcher": "grid", "trials": None}, "model.temperature is an interval"),
        ({"parameters": {"model.x": tune.grid_search([1])}}, "but the searcher is 'random'; use tune.choice"),
        ({"parameters": {}}, "parameters is empty"),
        ({"parameters": {"train.epochs": tune.randint(1, 9)}}, "train.epochs can't be searched: it is the length"),
        ({"parameters": {"seed": tune.randint(0, 9)}}, "seed can't be searched: it also draws the held-out"),
        ({"parameters": {"data": tune.choice([{"root": "a"}])}}, "data.root can't be searched"),
        ({"parameters": {"data.train_lists": tune.choice([["a"]])}}, "data.train_lists can't be searched"),
        ({"parameters": {"train": tune.choice([{"epochs": 3}])}}, "train.epochs can't be searched"),
        ({"parameters": {"evaluation.every_epochs": tune.randint(1, 9)}}, "measured alike"),
        ({"parameters": {"a": When("b", {1: tune.choice([1])}), "b": When("c", {})}}, "a depends on b, which"),
        ({"scheduler": Asha()}, "Asha has to know where trials are compared"),
        ({"scheduler": Asha(), "grace_epochs": 2, "rung_epochs": (2,)}, "rung_epochs and grace_epochs both"),
        ({"grace_epochs": 2}, "RunAll compares no trials"),
        ({"scheduler": Asha(), "rung_epochs": (4, 4)}, "each above the one before"),
        ({"scheduler": Asha(), "grace_epochs": 0}, "grace_epochs is .0.; give numbers from 1"),
        ({"scheduler": TopK(2), "rung_epochs": (4, 8)}, "TopK compares trials once"),
        ({"scheduler": Asha(), "rung_epochs": 4}, r"rung_epochs is 4; give a tuple, such as \(4,\)"),
        ({"scheduler": Asha(), "grace_epochs": (4,)}, r"grace_epochs is \(4,\); give one number"),
        ({"scheduler": Asha, "rung_epochs": (4,)}, "with its parentheses, such as Asha"),
        ({"gpus_per_trial": 2}, "at most 1"),
    ],
)  # fmt: skip
def test_space__mistakes_are_sentences(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        space(**changes)


@pytest.mark.parametrize("scheduler", [lambda: Asha(1), lambda: Hyperband(0), lambda: TopK(0)])
def test_schedulers__that_choose_nothing_are_refused(scheduler):
    with pytest.raises(ValueError, match="reduction is|TopK"):
        scheduler()


def test_load_space__returns_what_the_file_calls_space(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from ray import tune\nfrom sslsv.search import Space\n"
        "SPACE = Space(base='b.yml', parameters={'train.batch_size': tune.randint(8, 9)}, trials=2)\n"
    )
    assert load_space(file).trials == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a.py has no SPACE"),
        ("SPACE = 3", "a.py has no SPACE"),
        ("x = 1\nSPACE = (", "a.py, line 2: SyntaxError"),
        ("\n\nSPACE = Spce()", "a.py, line 3: NameError"),
        ("from sslsv.search import Space\nSPACE = Space(trails=1)", "a.py, line 2: TypeError: .*trails"),
        ("from sslsv.search import Space\nSPACE = Space(base='', parameters={}, trials=1)", "a.py, line 2: parameters"),
    ],
)  # fmt: skip
def test_load_space__what_goes_wrong_inside_is_a_sentence_with_the_line(tmp_path, text, sentence):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_space(tmp_path / "a.py")
    assert "\n" not in str(caught.value)


def test_load_space__a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "simclr.py").touch()
    with pytest.raises(FileNotFoundError, match="did you mean .*simclr.py"):
        load_space(tmp_path / "simcrl.py")
