"""Test decisions on synthetic values: exact in small cases, and independent of order and interruptions."""

import random

import pytest

from sslsv.search.schedulers import Asha, Decision, Halving, History, Outcome, ranking


def run(scheduler, costs, rungs, at_once=1, *, seed=None, kills=0.0, states=None, history=None, late=()):
    """Return the history of a sweep whose segments end in random order and whose driver dies at times.

    `costs[index]` is a number or one per rung; a trial of `late` collapses after its first rung. The driver
    dies with probability `kills`; then only the history survives.
    """
    rng = random.Random(seed)
    history, running = history or History(), []
    while True:
        if rng.random() < kills:
            history, running = History(list(history.decisions), list(history.outcomes)), []
        waiting = [segment for segment in history.open_segments() if segment not in running]
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
        segment = running.pop(rng.randrange(len(running)) if seed is not None else 0)
        state = (states or {}).get(segment.index, "reached")
        if segment.rung > 0 and segment.index in late:
            state = "collapsed"
        cost = costs[segment.index]
        cost = cost[segment.rung] if isinstance(cost, list) else cost
        cost = cost if state == "reached" else None
        history.outcomes.append(Outcome(segment.index, segment.rung, state, cost))


def last_rungs(history):
    return {index: outcome.rung for index, outcome in sorted(history.last_outcomes().items())}


@pytest.mark.parametrize(
    ("scheduler", "costs", "rungs", "expected"),
    [
        (Halving(3), [8, 0, 7, 1, 6, 2, 5, 3, 4], 3, [0, 2, 0, 1, 0, 1, 0, 0, 0]),
        (Halving(2), [5, 5, 5, 5], 2, [1, 1, 0, 0]),  # equal costs are ranked by trial index
        (Halving(4), [2, 1], 3, [0, 2]),  # one trial goes on even if there are fewer than 4
        (Asha(4), [2, 1], 3, [0, 2]),
        (Asha(2), [5, 3, 4, 1], 2, [0, 1, 0, 1]),
        (Asha(), [3, 1, 2], 1, [0, 0, 0]),  # without rungs, all trials are trained to the end
        (Halving(), [3, 1, 2], 1, [0, 0, 0]),
    ],
)
def test_decide__the_best_go_on(scheduler, costs, rungs, expected):
    history = run(scheduler, costs, rungs)
    assert last_rungs(history) == dict(enumerate(expected))
    assert ranking(history)[0].index == min(range(len(costs)), key=lambda index: (costs[index], index))


def test_halving__waits_for_all_trials_of_a_rung():
    history = History([Decision(i, 0) for i in range(3)], [Outcome(0, 0, "reached", 1.0)])
    assert Halving(3).decide(history, 3, 2, at_once=3) == []


@pytest.mark.parametrize("state", ["collapsed", "failed"])
def test_halving__a_trial_without_a_number_never_goes_on(state):
    assert last_rungs(run(Halving(2), [0, 1, 2, 3], rungs=2, states={0: state})) == {0: 0, 1: 1, 2: 1, 3: 0}
    assert last_rungs(run(Halving(2), [0, 1], rungs=2, states={0: state, 1: state})) == {0: 0, 1: 0}


def test_halving__when_all_that_went_on_collapse_the_best_left_behind_goes_on():
    assert last_rungs(run(Halving(3), [1, 0, 2, 3], 2, late={1})) == {0: 1, 1: 1, 2: 0, 3: 0}
    history = run(Halving(3), list(range(9)), rungs=3, late={0, 1, 2})
    assert last_rungs(history) == {0: 1, 1: 1, 2: 1, 3: 2, **dict.fromkeys(range(4, 9), 0)}


def test_asha__promotes_before_it_starts_another_trial():
    history = run(Asha(2), [5, 3, 4, 1], rungs=2)
    assert [(d.index, d.rung) for d in history.decisions] == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]


def test_asha__given_more_trials_it_goes_on_and_may_promote_one_that_was_left_behind():
    few = run(Asha(3), [1, 5, 2], rungs=3)
    assert last_rungs(few) == {0: 2, 1: 0, 2: 0}
    more = run(Asha(3), [1, 5, 2, 6, 7, 8], rungs=3, history=few)
    assert last_rungs(more) == {0: 2, 1: 0, 2: 1, 3: 0, 4: 0, 5: 0} and not more.open_segments()


def test_asha__does_not_wait_for_a_slow_trial():
    outcomes = [Outcome(i, 0, "reached", float(i)) for i in (2, 3)]
    history = History([Decision(i, 0) for i in range(4)], outcomes)
    assert Asha(2).decide(history, 9, 2, at_once=4) == [Decision(2, 1)]


def test_asha__a_promoted_trial_that_collapses_makes_room_for_the_next():
    history = History(
        [Decision(0, 0), Decision(1, 0), Decision(0, 1)],
        [Outcome(0, 0, "reached", 1.0), Outcome(1, 0, "reached", 2.0), Outcome(0, 1, "collapsed")],
    )
    assert [(d.index, d.rung) for d in Asha(2).decide(history, 2, 2, 1)] == [(1, 1)]


COSTS = [[random.Random(i * 7 + r).random() for r in range(3)] for i in range(27)]


@pytest.mark.parametrize("scheduler", [Halving(3), Halving(2)], ids=repr)
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_synchronous__decisions_depend_on_no_order_and_no_kill(scheduler, at_once):
    states = {4: "collapsed", 9: "failed"}
    expected = run(scheduler, COSTS, 3, states=states)
    for seed in range(6):
        disturbed = run(scheduler, COSTS, 3, at_once, seed=seed, kills=0.2, states=states)
        assert disturbed.decisions == expected.decisions


@pytest.mark.parametrize("rungs", [1, 3])
def test_asha__one_at_a_time_the_decisions_depend_on_no_kill(rungs):
    expected = run(Asha(3), COSTS, rungs)
    for seed in range(6):
        assert run(Asha(3), COSTS, rungs, seed=seed, kills=0.3).decisions == expected.decisions


class WatchedAsha(Asha):
    def decide(self, history, num_trials, num_rungs, at_once):
        decisions = super().decide(history, num_trials, num_rungs, at_once)
        for decision in decisions:
            there = history.at_rung(decision.rung - 1)
            num_started = len({each.index for each in history.decisions})
            if decision.rung > 0 and (history.open_segments() or num_started < num_trials):
                best = sorted(there, key=lambda o: (o.cost, o.index))[: len(there) // self.reduction]
                assert decision.index in {outcome.index for outcome in best}
        return decisions


@pytest.mark.parametrize("seed", range(20))
def test_asha__in_any_order_every_trial_is_tried_once_and_promotions_are_earned(seed):
    costs = [random.Random(i).random() for i in range(20)]
    history = run(WatchedAsha(3), costs, rungs=3, at_once=5, seed=seed, kills=0.1)
    assert sorted(d.index for d in history.decisions if d.rung == 0) == list(range(20))
    assert len({(o.index, o.rung) for o in history.outcomes}) == len(history.outcomes)
    assert 2 in last_rungs(history).values()
