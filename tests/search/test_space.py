"""Test spaces: allowed contents, and a one-sentence message for every mistake."""

import json

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune

from sslsv.search import Asha, Halving, Space
from sslsv.search.space import Dimension, load_space, sentence_of, to_distribution

TEMPERATURE = {"model.temperature": tune.loguniform(0.01, 1.0)}
SECTION = {"model": tune.choice([{"name": "simclr", "temperature": 0.7}])}


def space(**changes):
    return Space(**{"base": "a.yml", "parameters": TEMPERATURE, "trials": 4} | changes)


def choice(*values):
    return CategoricalDistribution(tuple(map(json.dumps, values)))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (tune.uniform(0, 2), FloatDistribution(0, 2)),
        (tune.loguniform(1e-4, 1e-2), FloatDistribution(1e-4, 1e-2, log=True)),
        (tune.quniform(0, 1, 0.25), FloatDistribution(0, 1, step=0.25)),
        (tune.randint(1, 4), IntDistribution(1, 3)),  # Ray excludes the upper end
        (tune.qrandint(2, 8, 2), IntDistribution(2, 8, step=2)),  # but includes it here
        (tune.lograndint(1, 9), IntDistribution(1, 8, log=True)),
        (tune.choice([[1], []]), choice([1], [])),
        (tune.grid_search([1, 2]), choice(1, 2)),
        (tune.choice([(8, 8), np.int64(3)]), choice([8, 8], 3)),  # lists, as read back from a file
        (tune.choice([{"name": "vicreg", "dims": (8,)}]), choice({"name": "vicreg", "dims": [8]})),
    ],
)
def test_to_distribution__domains_of_ray_become_distributions_of_optuna(written, expected):
    assert to_distribution("a", written) == expected


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (0.1, "which is not a range of values; use"),
        (tune.randn(0, 1), "not a range of values"),
        (tune.qloguniform(1e-3, 1, 1e-3), "`step` is not supported when `log` is true"),
        (tune.sample_from(lambda spec: 1), "not a range of values"),
        (tune.choice([]), "must contain one or more"),
        (tune.choice([1, {2, 3}]), "can't be searched as the space defines it"),
        (tune.randint(3, 3), "must hold"),
    ],
)
def test_to_distribution__what_no_searcher_can_use_is_refused(written, sentence):
    with pytest.raises(ValueError, match=f"model.x .*{sentence}"):
        to_distribution("model.x", written)


def test_dimension__knows_its_values():
    steps = Dimension("a", FloatDistribution(0.0, 1.0, step=0.1))
    assert steps.decode(0.1 * 3) == 0.3 == steps.encode(0.3)
    lists = Dimension("a", choice([8, 8], None))
    assert lists.choices_or_ends == [[8, 8], None]
    assert lists.decode(lists.encode((8, 8))) == [8, 8] and lists.decode(lists.encode(None)) is None
    for dimension, value in ((steps, 0.35), (steps, "x"), (lists, [8])):
        with pytest.raises(ValueError):
            dimension.encode(value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "err"}, "which can't select trials; did you mean 'eer'"),
        ({"paramters": {}}, "paramters is not a field of Space; did you mean 'parameters'"),
        ({"searcher": "optuna"}, "should be 'random', 'grid' or 'tpe'"),
        ({"searcher": "tpe", "scheduler": Halving(), "rung_epochs": (2,)}, "Halving starts all at once"),
        ({"trials": None}, "give a number"),
        ({"searcher": "grid"}, "leave it out with 'grid', which tries all"),
        ({"searcher": "grid", "trials": None}, "model.temperature is a range"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"train.epochs": tune.randint(1, 9)}}, "train.epochs can't be searched"),
        ({"parameters": {"data": tune.choice([{"root": "a"}])}}, "data.root can't be searched"),
        ({"alternatives": {"a": {"seed": 3}}}, "seed can't be searched, because all trials share it"),
        (
            {"alternatives": {"a": {"model": {"temperature": 1.0}}}},
            "model.temperature is searched twice, or also set by an alternative",
        ),
        ({"parameters": TEMPERATURE | SECTION}, "model.temperature is searched twice"),
        ({"alternatives": {"a": {}}, "tries_base_first": True}, "the base is none of the alternatives"),
        ({"alternatives": ["a"]}, "should be a valid dictionary"),
        ({"scheduler": Asha()}, "give both or none"),
        ({"scheduler": Asha(), "rung_epochs": (4, 4)}, "with ascending epochs"),
        ({"scheduler": Asha, "rung_epochs": (4,)}, "instance of Halving"),
        ({"gpus_per_trial": 2}, "less than or equal to 1"),
    ],
)
def test_space__mistakes_are_sentences(changes, sentence):
    with pytest.raises(ValueError) as caught:
        space(**changes)
    assert sentence in sentence_of(caught.value)


def test_alternatives__a_name_is_searched_and_stands_for_its_settings():
    named = {"frozen": {"encoder": {"frozen": True}}, "not frozen": {"encoder": {"frozen": False}}}
    searched = space(alternatives=named)
    first, temperature = searched.dimensions
    assert first.choices_or_ends == ["frozen", "not frozen"] and temperature.key == "model.temperature"
    configuration = {"alternative": "frozen", "model.temperature": 0.1}
    assert searched.settings_of(configuration) == {"encoder": {"frozen": True}, "model.temperature": 0.1}
    assert space().settings_of({"model.temperature": 0.1}) == {"model.temperature": 0.1}


@pytest.mark.parametrize("scheduler", [Asha, Halving])
def test_schedulers__that_choose_nothing_are_refused(scheduler):
    with pytest.raises(ValueError, match="reduction is 1"):
        scheduler(1)


HEAD = "from ray import tune\nfrom sslsv.search import Space\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SPACE = 3", "a.py has no SPACE"),
        ("x = 1\nSPACE = (", "a.py, line 2: SyntaxError"),
        ("\n\nSPACE = Spce()", "a.py, line 3: NameError"),
        (f"{HEAD}SPACE = Space(base='', parameters={{}}, trials=0)", "line 3: trials is .*greater than"),
        (f"{HEAD}SPACE = Space(base='', parameters={{'a': 1}}, trials=1)", "line 3: a is 1 in the space"),
    ],
)
def test_load_space__what_goes_wrong_inside_is_a_sentence_with_the_line(
    tmp_path, text, sentence, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(text)
    for path in ("a.py", tmp_path / "a.py"):
        with pytest.raises(ValueError, match=sentence) as caught:
            load_space(path)
        assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_load_space__a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="simcrl.py is not a space file"):
        load_space(tmp_path / "simcrl.py")
