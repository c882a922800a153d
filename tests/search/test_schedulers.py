"""Decisions on made-up values: exact on small cases, and the same whatever happens on the way."""

import random

import pytest

from sslsv.search.history import Decision, History, Outcome
from sslsv.search.schedulers import Asha, Halving, Hyperband, RunAll, TopK


def run(
    scheduler,
    costs,
    rungs,
    at_once=1,
    *,
    seed=None,
    kill_probability=0.0,
    states=None,
    history=None,
    late_collapse=(),
):
    """The history of a sweep in which legs end in random order and the driver dies now and then.

    `costs[index]` is a number or one per rung; a trial of `late_collapse` collapses after its first rung. A
    driver that died knows its history only.
    """
    rng = random.Random(seed)
    history, running = history or History(), []
    while True:
        if rng.random() < kill_probability:
            history, running = History(list(history.decisions), list(history.outcomes)), []
        waiting = [leg for leg in history.open_legs() if leg not in running]
        if len(running) < at_once:
            if waiting:
                running.append(waiting[0])
                continue
            decisions = scheduler.decide(history, len(costs), rungs, at_once)
            if decisions:
                history.decisions.extend(decisions)
                continue
        if not running:
            return history
        leg = running.pop(rng.randrange(len(running)) if seed is not None else 0)
        state = (states or {}).get(leg.index, "reached")
        if leg.rung > 0 and leg.index in late_collapse:
            state = "collapsed"
        cost = costs[leg.index]
        cost = cost[leg.rung] if isinstance(cost, list) else cost
        history.outcomes.append(Outcome(leg.index, leg.rung, state, cost if state == "reached" else None))


def last_rungs(history):
    return {index: outcome.rung for index, outcome in sorted(history.last_outcomes().items())}


def test_run_all__trains_every_trial_to_the_end():
    history = run(RunAll(), [3, 1, 2], rungs=1, at_once=2)
    assert last_rungs(history) == {0: 0, 1: 0, 2: 0} and not history.stopped()


def test_run_all__starts_only_as_many_as_fit():
    assert [d.index for d in RunAll().decide(History(), 9, 1, at_once=2)] == [0, 1]


def test_halving__the_best_third_goes_on_at_every_rung():
    history = run(Halving(3), [8, 0, 7, 1, 6, 2, 5, 3, 4], rungs=3)
    assert last_rungs(history) == {0: 0, 1: 2, 2: 0, 3: 1, 4: 0, 5: 1, 6: 0, 7: 0, 8: 0}
    assert history.stopped() == {0, 2, 3, 4, 5, 6, 7, 8}


def test_halving__waits_for_all_trials_of_a_rung():
    history = History([Decision(i, 0, "start", "") for i in range(3)], [Outcome(0, 0, "reached", 1.0)])
    assert Halving(3).decide(history, 3, 2, at_once=3) == []


def test_halving__equal_costs_are_ordered_by_trial():
    assert last_rungs(run(Halving(2), [5, 5, 5, 5], rungs=2, at_once=4, seed=3)) == {0: 1, 1: 1, 2: 0, 3: 0}


def test_halving__one_goes_on_even_of_too_few():
    assert last_rungs(run(Halving(4), [2, 1], rungs=3)) == {0: 0, 1: 2}


@pytest.mark.parametrize("state", ["collapsed", "failed"])
def test_halving__a_trial_without_a_number_never_goes_on_and_is_stopped_with_the_reason(state):
    history = run(Halving(2), [0, 1, 2, 3], rungs=2, states={0: state})
    assert last_rungs(history) == {0: 0, 1: 1, 2: 1, 3: 0}
    why = {d.index: d.why for d in history.decisions if d.action == "stop"}
    assert {"collapsed": "collapsed", "failed": "failed"}[state] in why[0] and "best 2 of 4" in why[3]


def test_halving__when_all_collapse_the_sweep_is_over():
    history = run(Halving(2), [0, 1], rungs=2, states={0: "collapsed", 1: "collapsed"})
    assert last_rungs(history) == {0: 0, 1: 0} and history.stopped() == {0, 1}


@pytest.mark.parametrize("scheduler", [Halving(3), TopK(keep=1)])
def test_synchronous__when_all_that_went_on_collapse_the_best_left_behind_goes_on(scheduler):
    history = run(scheduler, [1, 0, 2, 3], rungs=2, late_collapse={1})
    assert last_rungs(history) == {0: 1, 1: 1, 2: 0, 3: 0} and history.stopped() == {2, 3}
    again = [decision for decision in history.decisions if decision.index == 0]
    assert [decision.action for decision in again] == ["start", "stop", "continue"]


def test_halving__one_left_behind_is_judged_again_at_every_rung():
    history = run(Halving(3), list(range(9)), rungs=3, late_collapse={0, 1, 2})
    assert last_rungs(history) == {0: 1, 1: 1, 2: 1, 3: 2, **dict.fromkeys(range(4, 9), 0)}
    assert sum(decision.action == "stop" for decision in history.decisions) == 9  # none of them twice


def test_hyperband__every_bracket_trains_one_of_its_own_to_the_end():
    history = run(Hyperband(3), list(range(14)), rungs=3, late_collapse={0, 1, 2})
    assert last_rungs(history)[3] == 2 and last_rungs(history)[9] == 2
    first_of_second = next(i for i, d in enumerate(history.decisions) if d.index == 9)
    assert all(d.index < 9 for d in history.decisions[:first_of_second])


def test_top_k__trains_the_best_k_to_the_end():
    assert last_rungs(run(TopK(keep=2), [4, 1, 3, 2, 5], rungs=2)) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}


def test_hyperband__brackets_are_those_of_the_paper():
    # Table 1 of the paper: R = 81, eta = 3, five rungs.
    brackets = Hyperband(3).brackets(trials=81 + 34 + 15 + 8 + 5, rungs=5)
    assert [(rung, len(members)) for rung, members in brackets] == [(0, 81), (1, 34), (2, 15), (3, 8), (4, 5)]
    assert Hyperband(3).brackets(trials=12, rungs=3) == [(0, range(9)), (1, range(9, 12))]


def test_hyperband__a_bracket_starts_at_its_rung_when_the_one_before_is_over():
    history = run(Hyperband(3), list(range(17)), rungs=3, at_once=4, seed=1)
    assert last_rungs(history)[0] == 2 and last_rungs(history)[9] == 2
    starts = {d.index: d.rung for d in history.decisions if d.action == "start"}
    assert [starts[i] for i in (0, 8, 9, 13, 14, 16)] == [0, 0, 1, 1, 2, 2]
    first_of_second = next(i for i, d in enumerate(history.decisions) if d.index == 9)
    assert all(d.index < 9 for d in history.decisions[:first_of_second])


def test_asha__promotes_before_it_starts_another_trial():
    history = run(Asha(2), [5, 3, 4, 1], rungs=2)
    order = [(d.action, d.index) for d in history.decisions]
    assert order == [
        ("start", 0),
        ("start", 1),
        ("continue", 1),
        ("start", 2),
        ("start", 3),
        ("continue", 3),
        ("stop", 0),
        ("stop", 2),
    ]


def test_asha__given_more_trials_it_goes_on_and_may_promote_one_that_was_stopped():
    few = run(Asha(3), [1, 5, 2], rungs=3)
    assert few.stopped() == {1, 2} and last_rungs(few)[0] == 2
    costs = [1, 5, 2, 6, 7, 8]
    more = run(Asha(3), costs, rungs=3, history=few)
    assert last_rungs(more) == {0: 2, 1: 0, 2: 1, 3: 0, 4: 0, 5: 0}
    assert more.stopped() == {1, 2, 3, 4, 5} and not more.open_legs()
    assert Asha(3).decide(more, len(costs), 3, at_once=1) == []


def test_asha__does_not_wait_for_a_slow_trial():
    history = History(
        [Decision(i, 0, "start", "") for i in range(4)], [Outcome(i, 0, "reached", float(i)) for i in (2, 3)]
    )
    assert Asha(2).decide(history, 9, 2, at_once=4) == [Decision(2, 1, "continue", "number 1 of 2 so far")]


def test_asha__trains_one_trial_to_the_end_even_of_too_few():
    assert last_rungs(run(Asha(4), [2, 1], rungs=3)) == {0: 0, 1: 2}


def test_asha__a_promoted_trial_that_collapses_makes_room_for_the_next():
    history = History(
        [Decision(0, 0, "start", ""), Decision(1, 0, "start", ""), Decision(0, 1, "continue", "")],
        [Outcome(0, 0, "reached", 1.0), Outcome(1, 0, "reached", 2.0), Outcome(0, 1, "collapsed")],
    )
    assert [(d.action, d.index) for d in Asha(2).decide(history, 2, 2, 1)] == [("continue", 1)]


SYNCHRONOUS = [Halving(3), Halving(2), TopK(4), Hyperband(3)]


@pytest.mark.parametrize("scheduler", SYNCHRONOUS, ids=repr)
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_synchronous__decisions_depend_on_no_order_and_no_kill(scheduler, at_once):
    costs = [[random.Random(i * 7 + r).random() for r in range(3)] for i in range(27)]
    states = {4: "collapsed", 9: "failed"}
    rungs = 2 if isinstance(scheduler, TopK) else 3
    expected = run(scheduler, costs, rungs, states=states)
    for seed in range(6):
        disturbed = run(scheduler, costs, rungs, at_once, seed=seed, kill_probability=0.2, states=states)
        assert disturbed.decisions == expected.decisions


@pytest.mark.parametrize("scheduler", [Asha(3), Asha(2), RunAll()], ids=repr)
def test_asynchronous__one_at_a_time_the_decisions_depend_on_no_kill(scheduler):
    costs = [[random.Random(i * 7 + r).random() for r in range(3)] for i in range(27)]
    rungs = 1 if isinstance(scheduler, RunAll) else 3
    expected = run(scheduler, costs, rungs)
    for seed in range(6):
        assert run(scheduler, costs, rungs, seed=seed, kill_probability=0.3).decisions == expected.decisions


class WatchedAsha(Asha):
    def decide(self, history, trials, rungs, at_once):
        decisions = super().decide(history, trials, rungs, at_once)
        for decision in decisions:
            if decision.action == "continue" and "furthest" not in decision.why:
                there = history.at_rung(decision.rung - 1)
                best = sorted(there, key=lambda o: (o.cost, o.index))[: len(there) // self.reduction]
                assert decision.index in {outcome.index for outcome in best}
        return decisions


@pytest.mark.parametrize("seed", range(20))
def test_asha__in_any_order_every_trial_is_tried_once_and_promotions_are_earned(seed):
    costs = [random.Random(i).random() for i in range(20)]
    history = run(WatchedAsha(3), costs, rungs=3, at_once=5, seed=seed, kill_probability=0.1)
    starts = [d.index for d in history.decisions if d.action == "start"]
    assert sorted(starts) == list(range(20))
    assert len({(o.index, o.rung) for o in history.outcomes}) == len(history.outcomes)
    assert any(rung == 2 for rung in last_rungs(history).values())
    assert history.stopped() == {index for index, rung in last_rungs(history).items() if rung < 2}
