"""Test how many trials run at once, their resources, and the end of a sweep."""

import os

import pytest
from ray.tune.search import Searcher as TuneSearcher

from sslsv.config import ResourcesConfig
from sslsv.search import Asha
from sslsv.search.executor import Segments, find_slots
from tests.search.test_sweep import open_sweep, train

LAPTOP = ({"CPU": 2.0}, [{"CPU": 2.0}])
GPUS = ({"CPU": 32.0, "GPU": 4.0}, [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}])
ONE_GPU = ({"CPU": 32.0, "GPU": 1.0}, [{"CPU": 32.0, "GPU": 1.0}])


def slots(resources=None, cluster=LAPTOP, gpus=0.0, trials=100, wanted=None):
    return find_slots(resources or ResourcesConfig(), gpus, *cluster, trials, wanted)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7}, raising=False)


def test_find_slots__two_cores_hold_two_trials_of_one_thread_or_one_of_two(two_cores):
    two, one = slots(), slots(wanted=1)
    assert (two.at_once, two.resources.threads_per_worker, two.resources.data_tasks) == (2, 1, 1)
    assert (one.at_once, one.resources.threads_per_worker, one.resources.data_tasks) == (1, 2, 3)
    assert slots(trials=1) == one and one.resources.gpu is False
    assert two.describe().startswith("2 trials at once, each 1 worker(s) with 1 thread(s) and 0.5 CPUs")


@pytest.mark.parametrize(
    ("resources", "cluster", "gpus", "expected"),
    [
        (ResourcesConfig(), GPUS, 1.0, 4),
        (ResourcesConfig(), GPUS, 0.5, 8),
        (ResourcesConfig(workers=2), GPUS, 1.0, 2),
        (ResourcesConfig(), ONE_GPU, 0.4, 2),  # 0.2 of the GPU stays unused
        (ResourcesConfig(), ({"CPU": 32.0, "GPU": 1.0}, GPUS[1]), 1.0, 1),  # other jobs hold three GPUs
    ],
)
def test_find_slots__gpus_may_be_shared_by_trials_of_one_worker(resources, cluster, gpus, expected):
    found = slots(resources, cluster, gpus)
    assert found.at_once == expected and found.resources.gpu is True


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"wanted": 3}, "3 trial.s. at once should run, but 2 fit: each takes 1 of the 2 free CPUs and 0 of"),
        ({"cluster": GPUS, "gpus": 1.0, "wanted": 5}, "but 4 fit: .* and 1 of the 4 free GPUs"),
        (
            {"resources": ResourcesConfig(workers=2), "cluster": GPUS, "gpus": 0.5},
            "only trials of one worker",
        ),
        ({"resources": ResourcesConfig(workers=3)}, "1 trial.s. at once .* 0 fit: each takes 3 of the 2"),
    ],
)
def test_find_slots__what_does_not_fit_is_a_sentence(two_cores, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        slots(**changes)


def test_segments__the_third_fault_of_the_storage_in_a_row_halts_and_nothing_is_written(tmp_path):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    first = sweep.next_segment(at_once=1)
    for _ in range(2):
        sweep.requeue(first, "the disk is away")
        assert sweep.next_segment(at_once=1) == first
    train(sweep, first)  # the disk is available again
    segments = Segments(sweep, at_once=1)
    for number in range(3):
        assert isinstance(segments.suggest(str(number)), dict)
        segments.on_trial_complete(str(number), {"state": "interrupted", "why": "the disk is away"})
    assert segments.suggest("3") == TuneSearcher.FINISHED
    assert "was interrupted 3 times in a row, last in trial 1: the disk is away" in sweep.halted
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert [outcome.index for outcome in again.history.outcomes] == [0]
    assert again.halted is None and again.next_segment(at_once=1).index == 1


def test_segments__files_that_cannot_be_written_halt_the_sweep_and_a_restart_goes_on(tmp_path, monkeypatch):
    sweep = open_sweep(tmp_path, scheduler=Asha(3))
    segments = Segments(sweep, at_once=2)
    for name in "ab":
        assert isinstance(segments.suggest(name), dict)

    def full(name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep.folder, "write", full)
    segments.on_trial_complete("a", {"state": "reached", "why": ""})
    assert "the files of the sweep can't be read or written: [Errno 28] No space left" in sweep.halted
    segments.on_trial_complete("b", {"state": "reached", "why": ""})
    assert segments.suggest("c") == TuneSearcher.FINISHED
    again = open_sweep(tmp_path, scheduler=Asha(3))
    assert [segment.index for segment in again.history.open_segments()] == [0, 1]
