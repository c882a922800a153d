"""Test confirmation: intervals computed by hand, equal seeds for all, interruptions and extensions."""

import contextlib
import dataclasses

import pytest
from ray import tune

from sslsv.config import ResourcesConfig
from sslsv.search.confirmation import Confirmation, check_confirmation, compare, describe
from sslsv.search.executor import Slots
from sslsv.search.schedulers import ranking
from sslsv.settings import Failed
from sslsv.tune import confirm
from tests.search.test_sweep import BASE, open_sweep, train


@pytest.fixture
def sweep(tmp_path):
    found = open_sweep(tmp_path, scheduler=None, rung_epochs=(), trials=4)
    while not found.is_over:
        train(found, found.next_segment(at_once=1))
    return found


def finish_trainings(confirmation, *eers):
    """Finish one training after the other; a training whose EER is None collapses."""
    for eer in eers:
        segment = confirmation.next_segment(at_once=1)
        if eer is not None:
            best = {"step": 1, "test/trials/eer": eer, "test/trials/min_dcf": 1.0}
            confirmation.trial_folder(segment.index).write_json("summary.json", {"best": best})
        confirmation.end_segment(segment, "collapsed" if eer is None else "reached", "")


def test_compare__by_hand():
    # Differences -2, -1, -3: mean -2, sd 1; t(0.975; 2) = 4.3027, so the interval is -2 -+ 4.3027 / sqrt(3).
    found = compare(5, "trials", [18, 20, 19], [20, 21, 22], level=0.95)
    numbers = {"mean": 19, "sd": 1, "base_mean": 21, "base_sd": 1, "difference": -2}
    assert numbers.items() <= found.items()
    assert (found["low"], found["high"]) == pytest.approx((-4.4841, 0.4841), abs=1e-4)
    assert found["verdict"] == "within the noise of the seeds"


def test_compare__equal_differences_of_few_seeds_are_no_certainty():
    found = compare(0, "trials", [10.0, 11.0], [9.0, 10.0], level=0.95)
    assert "which can't be estimated" in found["verdict"] and (found["low"], found["high"]) == (1, 1)


@pytest.mark.parametrize(
    ("lost", "better"), [(0, "better"), (1, "lower, but other seeds were lost")], ids=["all", "survivors"]
)
def test_compare__a_lasting_difference_is_beyond_the_noise_but_survivors_are_never_better(lost, better):
    low, high = [18.0, 20.0, 19.1], [20.0, 22.1, 21.0]
    gain, loss = (compare(5, "trials", *each, level=0.95, lost=lost) for each in ((low, high), (high, low)))
    assert f"-2.00 (-2.25 to -1.75), beyond the noise of the seeds: {better}" in describe(gain)
    assert loss["verdict"].endswith("worse")


def test_confirmation__trains_base_and_best_with_the_same_new_seeds_and_tests_them(sweep):
    confirmation = Confirmation(sweep, num_best=2, num_seeds=2)
    best = [outcome.index for outcome in ranking(sweep.history)[:2]]
    assert confirmation.contestants == [None, *best] and confirmation.num_trials == 6
    configs = [confirmation.config_of(index) for index in range(6)]
    assert [config.seed for config in configs] == [BASE.seed + 1] * 3 + [BASE.seed + 2] * 3
    temperatures = [sweep.configurations[index]["model.temperature"] for index in best]
    assert [c.model.temperature for c in configs] == [BASE.model.temperature, *temperatures] * 2
    assert all(config.evaluation.test == ("trials",) and config.train.epochs == 9 for config in configs)
    assert sweep.config_of(0).evaluation.test == ()


@pytest.mark.parametrize("trials", [1, 3])
def test_confirmation__a_trial_with_the_settings_of_the_base_is_not_compared_with_it(tmp_path, trials):
    at_the_end = {"model.temperature": tune.uniform(BASE.model.temperature, 1.0)}  # low temperatures are best
    changes = {"parameters": at_the_end, "tries_base_first": True, "trials": trials}
    sweep = open_sweep(tmp_path, scheduler=None, rung_epochs=(), **changes)
    while not sweep.is_over:
        train(sweep, sweep.next_segment(at_once=1))
    first, *others = (outcome.index for outcome in ranking(sweep.history))
    assert first == 0
    if not others:
        with pytest.raises(ValueError, match="no trial except the base itself can win"):
            Confirmation(sweep, num_best=1, num_seeds=2)
        return
    confirmation = Confirmation(sweep, num_best=1, num_seeds=2)
    assert confirmation.contestants == [None, others[0]]
    finish_trainings(confirmation, 20.0, 21.0, 20.5, 21.9)
    ((found,), notes) = confirmation.comparisons()
    assert found["trial"] == others[0] and found["low"] == pytest.approx(1.2 - 0.2 * 12.7062, abs=1e-4)
    assert notes == ["trial 0, the best of the search, has the settings of the base, so it is not compared"]


def test_confirmation__goes_on_where_it_was_and_may_get_more_seeds(sweep):
    first = Confirmation(sweep, num_best=1, num_seeds=2)
    finish_trainings(first, 20.0, 18.0)
    lost = first.next_segment(at_once=1)
    again = Confirmation(sweep, num_best=1, num_seeds=3)
    assert again.next_segment(at_once=1) == lost and again.comparisons()[0] == []
    again.running.clear()
    finish_trainings(again, 22.0, 20.5, 21.0, 18.9)
    assert again.is_over and not again.folder.has("results.csv")
    ((found,), _) = again.comparisons()
    assert found["seeds"] == 3 and found["base_mean"] == 21.0
    assert found["mean"] == pytest.approx(19.1333, abs=1e-4)
    others = dataclasses.replace(BASE.evaluation, test=("trials_hard",))
    for num_best, base in ((2, BASE), (1, dataclasses.replace(BASE, evaluation=others))):
        sweep.base = base
        with pytest.raises(ValueError, match="holds a confirmation of other trials, seeds or lists"):
            Confirmation(sweep, num_best, num_seeds=3)


def test_confirmation__what_collapsed_is_left_out_with_its_partner(sweep):
    confirmation = Confirmation(sweep, num_best=1, num_seeds=3)
    finish_trainings(confirmation, 20.0, 18.0, 22.0, None)
    (found, (reason,)) = confirmation.comparisons()
    assert found == []
    assert f"trial {confirmation.contestants[1]} can't be compared: of 3 seeds, it finished 1" in reason
    assert "the base 2," in reason
    finish_trainings(confirmation, 21.0, 18.5)
    ((found,), incomparable) = confirmation.comparisons()
    assert {"seeds": 2, "lost": 1, "base_mean": 20.5, "mean": 18.25}.items() <= found.items()
    assert "2 seeds (1 more lost): EER" in describe(found) and incomparable == []


@pytest.mark.parametrize(
    ("eers", "fails"), [((20.0, 18.0, 22.0, None), True), ((20.0, 18.0, 22.0, 19.0), False)]
)
def test_confirm__says_how_many_there_are_and_fails_where_nothing_is_comparable(sweep, capsys, eers, fails):
    confirmation = Confirmation(sweep, num_best=1, num_seeds=2)
    finish_trainings(confirmation, *eers)
    sweep.history.outcomes[:] = ranking(sweep.history)[:1]  # only one trial can win
    slots = Slots(at_once=1, gpus=0.0, resources=ResourcesConfig())
    with pytest.raises(Failed, match="nothing is confirmed") if fails else contextlib.nullcontext():
        confirm(sweep, slots, num_best=3, num_seeds=2)
    assert "1 instead of 3 trials are confirmed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_best", "num_seeds", "lists", "sentence"),
    [
        (0, 3, ("trials",), "--confirm 0: give the number"),
        (2, 1, ("trials",), "--seeds 1: one training does not show"),
        (1, 3, (), r"evaluation\.test is empty"),
    ],
)
def test_check_confirmation__impossible_requests_are_a_sentence(num_best, num_seeds, lists, sentence):
    base = dataclasses.replace(BASE, evaluation=dataclasses.replace(BASE.evaluation, test=lists))
    with pytest.raises(ValueError, match=sentence):
        check_confirmation(base, num_best, num_seeds)
