"""Population-based training on made-up values, and with real checkpoints killed half-way."""

import json

import pytest
from ray import tune

from sslsv.config import Config, EvaluationConfig, TrainConfig
from sslsv.runs.checkpoint import Checkpoint, list_checkpoints, read_checkpoint, write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.search import Population, Space, When
from sslsv.search.history import Decision, History, Outcome
from sslsv.search.suggestions import Suggester
from sslsv.search.sweep import Sweep
from sslsv.search.sweep_folder import SweepFolder

PARAMETERS = {
    "optimizer.learning_rate": tune.loguniform(1e-4, 1e-2),
    "model.temperature": When("model.name", {"simclr": tune.quniform(0.1, 0.5, 0.1)}),
    "model.projector_dims": tune.choice([[], [8]]),
    "train.batch_size": tune.randint(8, 64),
}
BASE = Config(train=TrainConfig(epochs=9), evaluation=EvaluationConfig(held_out_speakers=4))
RUNGS = (3, 6, 9)


def at_first_rung(costs, state="reached"):
    trials = range(len(costs))
    outcomes = [Outcome(i, 0, "reached" if costs[i] is not None else state, costs[i]) for i in trials]
    return History([Decision(i, 0, "start", "") for i in trials], outcomes)


def sources(history, **settings):
    decisions = Population(**settings).decide(history, len(history.outcomes), 3, at_once=1)
    assert [d.index for d in decisions] == list(range(len(history.outcomes)))
    assert all(d.action == "continue" and d.rung == 1 for d in decisions)
    return {d.index: d.source for d in decisions if d.source is not None}


def test_population__the_lowest_share_goes_on_from_as_many_of_the_best():
    assert sources(at_first_rung([5, 1, 8, 2, 3, 7, 4, 6])) == {2: 1, 5: 3}
    assert sources(at_first_rung([1, 2]), share=0.5) == {1: 0}
    assert sources(at_first_rung([1.0])) == {}


@pytest.mark.parametrize("state", ["collapsed", "failed"])
def test_population__what_cannot_win_is_replaced_whatever_the_share(state):
    assert sources(at_first_rung([None, 3, None, 1, 2, None], state)) == {0: 3, 2: 4, 5: 1}
    assert sources(at_first_rung([None, None, None, 1], state)) == {0: 3, 1: 3, 2: 3}
    assert Population().decide(at_first_rung([None, None], state), 2, 3, 1) == []


def test_population__waits_for_all_and_ends_with_training():
    history = at_first_rung([1, 2, 3, 4])
    history.outcomes.pop()
    assert Population().decide(history, 4, 3, 1) == []
    starts = [Decision(i, 2, "start", "") for i in range(4)]
    done = History(starts, [Outcome(i, 2, "reached", 1.0) for i in range(4)])
    assert Population().decide(done, 4, 3, 1) == []
    assert Population().rungs_from(5, 20) == [5, 10, 15]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Population(share=0.6), "at most 0.5"),
        (lambda: Population(factors=(1,)), "other than 1"),
        (
            lambda: Space(
                base="a", trials=4, parameters={"train.batch_size": tune.randint(8, 9)}, scheduler=Population(), grace_epochs=3
            ),
            "nothing of that kind",
        ),
    ],
)  # fmt: skip
def test_population__that_changes_nothing_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_change__touches_only_what_may_change_half_way_and_stays_within():
    space = Space(base="a", parameters=PARAMETERS, trials=4)
    suggester = Suggester(space, {"model": {"name": "simclr"}})
    settings = {
        "optimizer.learning_rate": 1e-2, "model.temperature": 0.3, "model.projector_dims": [8], "train.batch_size": 9
    }  # fmt: skip
    changed = [suggester.change(settings, (0.8, 1.25), [1, seed]) for seed in range(20)]
    assert {c["optimizer.learning_rate"] for c in changed} == {8e-3, 1e-2}  # its upper end
    assert {c["model.temperature"] for c in changed} == {0.2, 0.4}  # in its steps
    assert all(c["model.projector_dims"] == [8] and c["train.batch_size"] == 9 for c in changed)
    assert changed == [suggester.change(settings, (0.8, 1.25), [1, seed]) for seed in range(20)]


def open_sweep(tmp_path, name):
    space = Space(base="a", parameters=PARAMETERS, trials=4, scheduler=Population(), rung_epochs=(3, 6))
    return Sweep(space, BASE, RUNGS, SweepFolder(RunFolder(str(tmp_path), name), RUNGS, "eer", True))


def train(sweep, leg):
    """A trial that goes on from its newest checkpoint, and leaves the next."""
    folder = sweep.folder.trial_folder(leg.index)
    found = list_checkpoints(folder)
    weight = read_checkpoint(folder, found[-1][1]).model["weight"] if found else 0.0
    weight += sweep.folder.suggestions[leg.index]["optimizer.learning_rate"]
    epoch = RUNGS[leg.rung]
    assert (found[-1][0] if found else 0) == 10 * (RUNGS[leg.rung - 1] if leg.rung else 0)
    folder.append_lines(
        "metrics.jsonl", [json.dumps({"step": 10 * epoch, "epoch": epoch, "eer": 50 - weight})]
    )
    write_checkpoint(folder, Checkpoint(step=10 * epoch, config="", model={"weight": weight}))
    sweep.end_leg(leg, "reached", "")


def finish(sweep, legs=100):
    while not sweep.is_over and legs:
        leg = sweep.next_leg(at_once=1)
        if leg is not None:
            legs -= 1
            if not legs:
                return False
            train(sweep, leg)
    return True


def weights(sweep):
    folders = [sweep.folder.trial_folder(index) for index in range(4)]
    return [[read_checkpoint(f, name).model["weight"] for _, name in list_checkpoints(f)] for f in folders]


def test_population__killed_after_every_leg_it_ends_with_the_same_weights(tmp_path):
    whole = open_sweep(tmp_path, "whole")
    assert finish(whole)
    copied = [d for d in whole.folder.history.decisions if d.source is not None]
    assert len(copied) == 2 and len(whole.folder.history.outcomes) == 12
    while not finish(open_sweep(tmp_path, "killed"), legs=2):
        pass
    killed = open_sweep(tmp_path, "killed")
    assert killed.folder.history == whole.folder.history and weights(killed) == weights(whole)
    assert killed.folder.suggestions == whole.folder.suggestions


def test_population__costs_are_paired_with_the_settings_that_earned_them(tmp_path):
    sweep = open_sweep(tmp_path, "a")
    drawn = {}
    while len(sweep.folder.history.outcomes) < 4:
        leg = sweep.next_leg(at_once=1)
        drawn[leg.index] = sweep.folder.suggestions[leg.index]
        train(sweep, leg)
    finish(sweep)
    again = open_sweep(tmp_path, "a")
    changed = [d for d in again.folder.history.decisions if d.source is not None]
    assert changed and all(again.folder.suggestions[d.index] != drawn[d.index] for d in changed)
    assert {index: again.folder.settings_at(index, 0) for index in range(4)} == drawn
    last = changed[-1]
    assert again.folder.settings_at(last.index, last.rung) == again.folder.suggestions[last.index]


def test_sweep_folder__a_copy_with_other_steps_per_epoch_loses_no_record(tmp_path):
    folder = open_sweep(tmp_path, "a").folder
    own = [{"step": 30 * epoch, "epoch": float(epoch), "eer": 9.0} for epoch in (1, 2, 3)]
    copied = [{"step": 10 * epoch, "epoch": float(epoch), "eer": 5.0} for epoch in (4, 5, 6, 9)]
    folder.add_records(0, own)
    folder.add_records(0, copied)  # steps 60 and 90 are there twice
    folder.add_records(0, copied)
    assert [record["epoch"] for record in folder.records_of(0)] == [1, 2, 3, 4, 5, 6, 9]


@pytest.mark.parametrize("dies_in", ["add_suggestion", "add_decisions", "copy"])
def test_population__killed_while_it_copies_it_copies_again(tmp_path, monkeypatch, dies_in):
    whole = open_sweep(tmp_path, "whole")
    finish(whole)
    killed = open_sweep(tmp_path, "killed")
    while len(killed.folder.history.outcomes) < 4:
        train(killed, killed.next_leg(at_once=1))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if dies_in == "copy":
            patch.setattr(RunFolder, "delete", die)
        else:
            patch.setattr(SweepFolder, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            killed.next_leg(at_once=1)
    again = open_sweep(tmp_path, "killed")
    assert finish(again)
    assert again.folder.history == whole.folder.history and weights(again) == weights(whole)
