"""Test configurations: reproducible, within their dimensions, conditional; and that TPE learns."""

import numpy as np
import pytest
from ray import tune

from sslsv.config import Config
from sslsv.search import Space
from sslsv.search.schedulers import Decision, History, Outcome
from sslsv.search.searchers import Searcher, rung_to_learn_from
from sslsv.settings import apply_overrides

PARAMETERS = {
    "model.temperature": tune.loguniform(0.01, 1.0),
    "model.name": tune.choice(["simclr", "vicreg"]),
    "model.projector_dims": tune.choice([[], [8, 8]]),
}


def make_searcher(parameters=PARAMETERS, base=None, **changes):
    space = Space(**{"base": "a.yml", "parameters": parameters, "trials": 20} | changes)
    return Searcher(space, base or Config())


def test_random__is_a_function_of_seed_and_index_within_the_space():
    first, second = make_searcher(), make_searcher()
    backwards = [second.choose(i, {}, History()) for i in reversed(range(20))][::-1]
    assert [first.choose(i, {}, History()) for i in range(20)] == backwards
    assert all(0.01 <= found["model.temperature"] <= 1.0 for found in backwards)
    assert {found["model.name"] for found in backwards} == {"simclr", "vicreg"}
    assert make_searcher(seed=2).choose(0, {}, History()) != first.choose(0, {}, History())


def test_random__another_parameter_leaves_the_values_of_the_first_as_they_are():
    one = make_searcher({"a": tune.uniform(0, 1)})
    two = make_searcher({"b": tune.uniform(0, 1), "a": tune.uniform(0, 1)})
    assert one.choose(3, {}, History())["a"] == two.choose(3, {}, History())["a"]


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_choose__the_base_first_when_asked(searcher):
    base = apply_overrides(Config(), ["model.temperature=0.5", "model.projector_dims=[8, 8]"])
    searched = make_searcher(base=base, searcher=searcher, tries_base_first=True)
    first = {"model.temperature": 0.5, "model.name": "simclr", "model.projector_dims": [8, 8]}
    assert searched.choose(0, {}, History()) == first
    if searcher == "random":
        assert searched.choose(1, {}, History()) == make_searcher(base=base).choose(1, {}, History())


def test_grid__tries_every_combination_once():
    parameters = {"x": tune.grid_search([1, 2]), "y": tune.choice([True, False])}
    grid = make_searcher(parameters, searcher="grid", trials=None)
    tried = [grid.choose(i, {}, History()) for i in range(grid.num_trials)]
    assert tried == [{"x": 1, "y": True}, {"x": 1, "y": False}, {"x": 2, "y": True}, {"x": 2, "y": False}]


def search(searcher, trials=40, target=0.7, seed=1717):
    """Return configurations and costs of one trial after the other; the optimum is at `target`."""
    searched = make_searcher({"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}, searcher=searcher, seed=seed)
    found, history = {}, History()
    for index in range(trials):
        found[index] = searched.choose(index, found, history)
        cost = sum((value - target) ** 2 for value in found[index].values())
        history.decisions.append(Decision(index, 0))
        history.outcomes.append(Outcome(index, 0, "reached", cost))
    return found, [outcome.cost for outcome in history.outcomes]


def test_tpe__learns_from_the_outcomes():
    late = [np.mean(search(searcher)[1][20:]) for searcher in ("random", "tpe")]
    assert late[1] < late[0] / 2


def test_tpe__the_same_history_gives_the_same_configuration():
    found, _ = search("tpe", trials=15)
    assert search("tpe", trials=15)[0] == found != search("tpe", trials=15, seed=3)[0]


def test_tpe__collapsed_failed_and_running_trials_are_kept_away_from():
    searched = make_searcher({"x": tune.uniform(0, 1)}, searcher="tpe", startup_trials=0)
    earlier = {i: {"x": 0.05 * i} for i in range(20)}
    history = History([Decision(i, 0) for i in range(20)])
    for index in range(19):  # the left half collapses, the last trial is still running
        state, cost = ("collapsed", None) if index < 10 else ("reached", 1.0)
        history.outcomes.append(Outcome(index, 0, state, cost))
    assert np.mean([searched.choose(20 + i, earlier, history)["x"] for i in range(10)]) > 0.5


def test_rung_to_learn_from__is_the_highest_with_enough_outcomes():
    outcomes = [Outcome(i, rung, "reached", 1.0) for rung, count in ((0, 9), (1, 3)) for i in range(count)]
    assert rung_to_learn_from(History([], outcomes), enough=3) == 1
    assert rung_to_learn_from(History([], outcomes), enough=4) == 0
    assert rung_to_learn_from(History(), enough=4) == 0


def test_corners__visit_both_ends_of_every_dimension():
    visited = [(key, configuration[key]) for key, configuration in make_searcher().corners()]
    ends = {"model.temperature": [0.01, 1.0], "model.name": ["simclr", "vicreg"]}
    ends["model.projector_dims"] = [[], [8, 8]]
    assert visited == [(key, end) for key, both in ends.items() for end in both]
