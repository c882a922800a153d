"""Suggestions: pure, within their dimensions, conditional; TPE learns."""

import numpy as np
import pytest
from ray import tune

from sslsv.search import Space, When
from sslsv.search.dimensions import Interval
from sslsv.search.history import Decision, History, Outcome
from sslsv.search.suggestions import Suggester, rung_to_learn_from

CONDITIONAL = {
    "model.temperature": When("model.name", {"simclr": tune.loguniform(0.01, 1.0)}),
    "model.name": tune.choice(["simclr", "vicreg"]),
    "model.covariance_weight": When("model.name", {"vicreg": tune.uniform(0.0, 1.0)}),
    "model.projector_dims": tune.choice([[], [8, 8]]),
}


def suggester(parameters=CONDITIONAL, base=None, **changes):
    space = Space(**{"base": "a.yml", "parameters": parameters, "trials": 20} | changes)
    return Suggester(space, base or {"model": {"name": "simclr"}})


def test_random__is_a_function_of_seed_and_index():
    first, second = suggester(), suggester()
    backwards = [second.suggest(i, {}, History()) for i in reversed(range(20))][::-1]
    assert [first.suggest(i, {}, History()) for i in range(20)] == backwards
    assert suggester(seed=2).suggest(0, {}, History()) != first.suggest(0, {}, History())


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_suggest__the_base_first_when_asked(searcher):
    base = {"model": {"name": "vicreg", "covariance_weight": 0.5, "projector_dims": (8, 8)}}
    searched = suggester(base=base, searcher=searcher, tries_base_first=True)
    assert searched.suggest(0, {}, History()) == {
        "model.name": "vicreg",
        "model.projector_dims": [8, 8],
        "model.covariance_weight": 0.5,
    }
    plain = suggester(base=base, searcher="random")
    if searcher == "random":
        assert searched.suggest(1, {}, History()) == plain.suggest(1, {}, History())


def test_random__another_parameter_leaves_the_values_of_the_first_as_they_are():
    one = suggester({"a": tune.uniform(0, 1)})
    two = suggester({"b": tune.uniform(0, 1), "a": tune.uniform(0, 1)})
    assert one.suggest(3, {}, History())["a"] == two.suggest(3, {}, History())["a"]


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_suggest__conditions_hold_and_values_are_within(searcher):
    suggestions = {}
    searched = suggester(searcher=searcher)
    for index in range(30):
        suggestions[index] = searched.suggest(index, suggestions, History())
    for settings in suggestions.values():
        is_simclr = settings["model.name"] == "simclr"
        assert ("model.temperature" in settings) == is_simclr != ("model.covariance_weight" in settings)
        assert 0.01 <= settings.get("model.temperature", 0.5) <= 1.0
        assert settings["model.projector_dims"] in ([], [8, 8])
    assert {settings["model.name"] for settings in suggestions.values()} == {"simclr", "vicreg"}


def test_suggest__a_condition_on_a_setting_that_is_not_searched_asks_the_base():
    parameters = {
        "model.temperature": When("model.name", {"simclr": tune.uniform(0, 1)}),
        "optimizer.momentum": tune.uniform(0, 1),
    }
    assert "model.temperature" in suggester(parameters).suggest(0, {}, History())
    other = suggester(parameters, base={"model": {"name": "vicreg"}})
    assert "model.temperature" not in other.suggest(0, {}, History())
    with pytest.raises(ValueError, match="model.name, on which a parameter depends"):
        suggester(parameters, base={"model": {"nom": 1}}).suggest(0, {}, History())


def test_suggest__a_condition_may_name_a_list_by_a_tuple():
    parameters = {
        "dims": tune.choice([(8, 8)]),
        "x": When("dims", {(8, 8): tune.uniform(0, 1), (): tune.uniform(2, 3)}),
    }
    found = suggester(parameters).suggest(0, {}, History())
    assert found["dims"] == [8, 8] and 0 <= found["x"] <= 1


def test_grid__tries_every_combination_that_the_conditions_allow_once():
    grid = suggester(
        {
            "name": tune.grid_search(["a", "b"]),
            "x": When("name", {"a": tune.grid_search([1, 2])}),
            "y": tune.choice([True, False]),
        },
        searcher="grid",
        trials=None,
    )
    tried = [grid.suggest(i, {}, History()) for i in range(grid.num_trials)]
    assert len(tried) == 6 and tried.count({"name": "b", "y": True}) == 1
    assert {"name": "a", "y": False, "x": 2} in tried


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (Interval(0.0, 4.0), 2.0),
        (Interval(1e-4, 1e-2, is_logarithmic=True), None),
        (Interval(1, 5, is_integer=True), 3.0),
        (Interval(0.0, 1.0, step=0.25), 0.5),
        (Interval(2, 8, is_integer=True, step=2), 5.0),
    ],
)
def test_interval__draws_are_uniform_on_its_scale(dimension, expected):
    generator = np.random.default_rng(1)
    drawn = np.array([dimension.draw(generator) for _ in range(4000)])
    assert dimension.low <= drawn.min() and drawn.max() <= dimension.high
    if expected is None:
        drawn, expected = np.log10(drawn), -3.0
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / 4000**0.5
    if dimension.step:
        assert len(set(drawn)) == (dimension.high - dimension.low) / dimension.step + 1


def search(searcher, trials=40, target=0.7, seed=1717):
    """Costs of one trial after the other; the best is at `target`."""
    searched = suggester({"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}, searcher=searcher, seed=seed)
    suggestions, history = {}, History()
    for index in range(trials):
        suggestions[index] = searched.suggest(index, suggestions, history)
        cost = sum((value - target) ** 2 for value in suggestions[index].values())
        history.decisions.append(Decision(index, 0, "start", ""))
        history.outcomes.append(Outcome(index, 0, "reached", cost))
    return suggestions, [outcome.cost for outcome in history.outcomes]


def test_tpe__learns_from_the_records():
    late = [np.mean(search(searcher)[1][20:]) for searcher in ("random", "tpe")]
    assert late[1] < late[0] / 2


def test_tpe__the_same_records_give_the_same_suggestion():
    suggestions, costs = search("tpe", trials=15)
    again, _ = search("tpe", trials=15)
    assert suggestions == again
    assert search("tpe", trials=15, seed=3)[0] != suggestions


def test_tpe__collapsed_failed_and_running_trials_are_kept_away_from():
    searched = suggester({"x": tune.uniform(0, 1)}, searcher="tpe", startup_trials=0)
    suggestions = {i: {"x": 0.05 * i} for i in range(20)}
    history = History([Decision(i, 0, "start", "") for i in range(20)])
    for index in range(20):  # the left half collapses, the last one still runs
        if index < 10:
            history.outcomes.append(Outcome(index, 0, "collapsed"))
        elif index < 19:
            history.outcomes.append(Outcome(index, 0, "reached", 1.0))
    asked = [searched.suggest(20 + i, suggestions, history)["x"] for i in range(10)]
    assert np.mean(asked) > 0.5


def test_rung_to_learn_from__is_the_highest_with_enough_outcomes():
    outcomes = [Outcome(i, 0, "reached", 1.0) for i in range(9)] + [
        Outcome(i, 1, "reached", 1.0) for i in range(3)
    ]
    assert rung_to_learn_from(History([], outcomes), enough=3) == 1
    assert rung_to_learn_from(History([], outcomes), enough=4) == 0
    assert rung_to_learn_from(History(), enough=4) == 0


def test_corners__visit_both_ends_of_every_dimension_in_every_case():
    visited = [(key, settings[key]) for key, settings in suggester().corners()]
    assert ("model.temperature", 0.01) in visited and ("model.covariance_weight", 1.0) in visited
    assert ("model.name", "vicreg") in visited and ("model.projector_dims", [8, 8]) in visited
