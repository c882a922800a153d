import itertools
import math
import time

import numpy as np
import pytest
from scipy.stats import norm

from sslsv.evaluation.intervals import Interval, speaker_bootstrap, speakers_from_trials
from sslsv.evaluation.metrics import act_dcf, cllr, dcf_key, eer, min_cllr, min_dcf

SPREAD = 0.8  # deviation of what all trials of a speaker have in common; that of a trial alone is 1
SEPARATION = 2.5
TRUE_EER = 100 * norm.cdf(-SEPARATION / 2 / math.sqrt(1 + SPREAD**2))

Trials = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def simulated(seed: int, num_speakers: int = 20, per_speaker: int = 20, decimals: int = 15) -> Trials:
    """Scores, targets, enrolment and test speakers; the speakers raise or lower the scores of all their trials."""
    generator = np.random.default_rng(seed)
    pairs = np.array([*itertools.combinations(range(num_speakers), 2)] * 2)
    enrol = np.concatenate((np.repeat(np.arange(num_speakers), per_speaker), pairs[:, 0]))
    test = np.concatenate((np.repeat(np.arange(num_speakers), per_speaker), pairs[:, 1]))
    targets = enrol == test
    own = generator.normal(size=num_speakers) * SPREAD
    foreign = generator.normal(size=num_speakers) * SPREAD / math.sqrt(2)
    shared = np.where(targets, SEPARATION + own[enrol], foreign[enrol] + foreign[test])
    scores = shared + generator.normal(size=len(targets))
    return scores.round(decimals), targets, enrol, test


METRICS = {
    "eer": eer,
    "min_cllr": min_cllr,
    dcf_key("min", 0.01): min_dcf,
    "cllr": cllr,
    dcf_key("act", 0.01): act_dcf,
}


def slow_bootstrap(trials: Trials, replicates: int, seed: int) -> dict[str, Interval]:
    """Repeats every trial as often as it weighs."""
    scores, targets, enrol, test = trials
    generator, num_speakers = np.random.default_rng(seed), len(np.unique((enrol, test)))
    found: list[tuple[float, ...]] = []
    while len(found) < replicates:
        drawn = generator.integers(num_speakers, size=num_speakers)
        times = np.array([np.sum(drawn == speaker) for speaker in range(num_speakers)])
        weights = np.where(targets, times[enrol], times[enrol] * times[test])
        if weights[targets].any() and weights[~targets].any():
            again = np.repeat(scores, weights), np.repeat(targets, weights)
            found.append(tuple(metric(*again) for metric in METRICS.values()))
    ends = np.quantile(found, [0.025, 0.975], axis=0).T
    return {name: Interval(*end) for name, end in zip(METRICS, ends, strict=True)}


@pytest.mark.parametrize("decimals", [15, 1, 0])
@pytest.mark.parametrize("num_speakers", [2, 3, 12])
def test_speaker_bootstrap__is_that_of_repeated_trials(decimals: int, num_speakers: int) -> None:
    scores, *rest = simulated(1, num_speakers, decimals=decimals)
    trials = 3 * scores - 4, *rest
    expected = slow_bootstrap(trials, 50, seed=3)
    intervals = speaker_bootstrap(*trials, replicates=50, seed=3)
    assert intervals.keys() == expected.keys()
    for name, interval in intervals.items():
        assert interval.low == pytest.approx(expected[name].low, abs=1e-10)
        assert interval.high == pytest.approx(expected[name].high, abs=1e-10)


def test_speaker_bootstrap__does_not_depend_on_the_order_or_direction_of_trials() -> None:
    scores, targets, enrol, test = simulated(2, decimals=1)
    order = np.random.default_rng(0).permutation(len(scores))
    intervals = speaker_bootstrap(scores, targets, enrol, test, replicates=50)
    again = speaker_bootstrap(scores[order], targets[order], test[order], enrol[order], replicates=50)
    assert again["eer"] == intervals["eer"] and again["min_cllr"] == intervals["min_cllr"]
    assert again["cllr"].high == pytest.approx(intervals["cllr"].high, rel=1e-12)
    assert speaker_bootstrap(scores, targets, enrol, test, replicates=50, seed=1) != intervals


def trial_bootstrap(scores: np.ndarray, targets: np.ndarray, replicates: int) -> Interval:
    """What takes all trials for independent."""
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(replicates):
        drawn = generator.integers(len(scores), size=len(scores))
        rates.append(eer(scores[drawn], targets[drawn]))
    return Interval(*np.quantile(rates, [0.025, 0.975]))


def test_speaker_bootstrap__covers_the_truth_as_often_as_it_says_and_trials_alone_do_not() -> None:
    by_speaker, by_trial = [], []
    for seed in range(60):
        trials = simulated(seed)
        by_speaker.append(speaker_bootstrap(*trials, replicates=200, seed=seed)["eer"])
        by_trial.append(trial_bootstrap(trials[0], trials[1], 100))
    coverage, wrong_coverage = (
        np.mean([interval.low <= TRUE_EER <= interval.high for interval in intervals])
        for intervals in (by_speaker, by_trial)
    )
    width, wrong_width = (
        np.mean([interval.high - interval.low for interval in intervals])
        for intervals in (by_speaker, by_trial)
    )
    assert 0.85 <= coverage <= 1
    assert wrong_coverage < 0.85
    assert width > 1.5 * wrong_width


def test_speaker_bootstrap__of_scores_without_an_error_has_no_width() -> None:
    _, targets, enrol, test = simulated(6)
    assert speaker_bootstrap(targets, targets, enrol, test, replicates=20)["eer"] == Interval(0, 0)


def test_speaker_bootstrap__of_a_list_as_large_as_voxcelebs_takes_seconds() -> None:
    generator = np.random.default_rng(0)
    enrol = generator.integers(40, size=37_720)
    targets = np.arange(37_720) % 2 == 0
    test = np.where(targets, enrol, (enrol + generator.integers(1, 40, size=37_720)) % 40)
    scores = generator.normal(size=37_720) + 4 * targets
    start = time.process_time()
    speaker_bootstrap(scores, targets, enrol, test, replicates=1000)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("enrol", "test", "settings", "sentence"),
    [
        ([0, 0, 1], [0, 1, 1], {"replicates": 0}, "must be at least 1"),
        ([0, 0, 1], [0, 1, 1], {"p_targets": (1.0,)}, "define no cost"),
        ([0, 0], [0, 1], {}, r"speakers have shapes \(2,\)"),
        ([0, 0, 1], [0, 0, 1], {}, r"1 trials contradict their targets, the first is number 1;"),
        ([7, 7, 7], [7, 7, 7], {}, "a nontarget trial two"),
        ([0, 0, 1], [0, 1, 0], {}, r"1 trials contradict their targets, the first is number 2;"),
    ],
)
def test_speaker_bootstrap__says_what_is_wrong(enrol, test, settings, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        speaker_bootstrap([0.9, 0.1, 0.8], [1, 0, 1], enrol, test, **settings)


def test_speakers_from_trials__are_the_groups_that_target_trials_join() -> None:
    enrol, test, targets = [0, 1, 3, 0, 2], [1, 2, 4, 3, 5], [1, 1, 1, 0, 0]
    speakers, wrong = speakers_from_trials(7, enrol, test, targets)
    assert speakers.dtype == np.int64 and speakers.shape == (7,)
    groups = {tuple(np.flatnonzero(speakers == speaker).tolist()) for speaker in speakers}
    assert groups == {(0, 1, 2), (3, 4), (5,), (6,)}


def test_speakers_from_trials__find_trials_that_contradict_the_others() -> None:
    enrol, test, targets = [0, 1, 0, 3, 3], [1, 2, 2, 3, 0], [1, 1, 0, 0, 0]
    assert speakers_from_trials(4, enrol, test, targets)[1].tolist() == [2, 3]


def test_speakers_from_trials__refuse_recordings_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="test has row numbers from 1 to 4, but there are 4 recordings"):
        speakers_from_trials(4, [0, 1], [1, 4], [1, 0])
