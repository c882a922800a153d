import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from sslsv.evaluation.intervals import Interval, speaker_bootstrap, speakers_from_trials
from sslsv.evaluation.metrics import ErrorCurve, act_dcf, cllr, dcf_key

SPREAD = 0.8  # standard deviation of a speaker's effect; that of a single trial is 1
SEPARATION = 2.5
TRUE_EER = 100 * norm.cdf(-SEPARATION / 2 / math.sqrt(1 + SPREAD**2))

Trials = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def simulated(seed: int, num_speakers: int = 20, per_speaker: int = 20, decimals: int = 15) -> Trials:
    """Return scores, targets, enrolment and test speakers; a speaker shifts the scores of all its trials."""
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


def slow_bootstrap(trials: Trials, replicates: int, seed: int) -> dict[str, Interval]:
    """Compute the bootstrap by repeating every trial as often as its weight."""
    scores, targets, enrol, test = trials
    generator, num_speakers = np.random.default_rng(seed), len(np.unique((enrol, test)))
    found: list[tuple[float, ...]] = []
    while len(found) < replicates:
        drawn = generator.integers(num_speakers, size=num_speakers)
        times = np.array([np.sum(drawn == speaker) for speaker in range(num_speakers)])
        weights = np.where(targets, times[enrol], times[enrol] * times[test])
        if weights[targets].any() and weights[~targets].any():
            again = np.repeat(scores, weights), np.repeat(targets, weights)
            curve = ErrorCurve.of(*again)
            found.append((curve.eer(), curve.min_cllr(), curve.min_dcf(), cllr(*again), act_dcf(*again)))
    names = ["eer", "min_cllr", dcf_key("min", 0.01), "cllr", dcf_key("act", 0.01)]
    ends = np.quantile(found, [0.025, 0.975], axis=0).T
    return {name: Interval(*end) for name, end in zip(names, ends, strict=True)}


@pytest.mark.parametrize("decimals", [15, 1, 0])
@pytest.mark.parametrize("num_speakers", [2, 3, 12])
def test_speaker_bootstrap__is_that_of_repeated_trials(decimals: int, num_speakers: int) -> None:
    scores, *rest = simulated(1, num_speakers, decimals=decimals)
    trials = 3 * scores - 4, *rest
    expected = slow_bootstrap(trials, 50, seed=3)
    intervals = speaker_bootstrap(*trials, replicates=50, seed=3)
    assert intervals.keys() == expected.keys()
    for name, interval in intervals.items():
        assert interval == pytest.approx(expected[name], abs=1e-10)


def test_speaker_bootstrap__does_not_depend_on_the_order_or_direction_of_trials() -> None:
    scores, targets, enrol, test = simulated(2, decimals=1)
    order = np.random.default_rng(0).permutation(len(scores))
    intervals = speaker_bootstrap(scores, targets, enrol, test, replicates=50)
    again = speaker_bootstrap(scores[order], targets[order], test[order], enrol[order], replicates=50)
    assert again["eer"] == intervals["eer"] and again["min_cllr"] == intervals["min_cllr"]
    assert again["cllr"].high == pytest.approx(intervals["cllr"].high, rel=1e-12)
    assert speaker_bootstrap(scores, targets, enrol, test, replicates=50, seed=1) != intervals


def test_speaker_bootstrap__covers_the_truth_as_often_as_it_says() -> None:
    found = [speaker_bootstrap(*simulated(seed), replicates=200, seed=seed)["eer"] for seed in range(60)]
    # Resampling trials instead of speakers would give less than 0.85.
    assert 0.85 <= np.mean([interval.low <= TRUE_EER <= interval.high for interval in found]) <= 1


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"replicates": 0}, "must be at least 1"), ({"p_targets": (1.0,)}, "no cost")]
)
def test_speaker_bootstrap__says_what_is_wrong(settings, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        speaker_bootstrap([0.9, 0.1, 0.8], [1, 0, 1], [0, 0, 1], [0, 1, 1], **settings)


def test_speakers_from_trials__are_the_groups_that_target_trials_join() -> None:
    enrol, test, targets = [0, 1, 3, 0, 2], [1, 2, 4, 3, 5], [1, 1, 1, 0, 0]
    speakers, _ = speakers_from_trials(7, enrol, test, targets)
    assert speakers.dtype == np.int64 and speakers.shape == (7,)
    groups = {tuple(np.flatnonzero(speakers == speaker).tolist()) for speaker in speakers}
    assert groups == {(0, 1, 2), (3, 4), (5,), (6,)}


def test_speakers_from_trials__find_trials_that_contradict_the_others() -> None:
    enrol, test, targets = [0, 1, 0, 3, 3], [1, 2, 2, 3, 0], [1, 1, 0, 0, 0]
    assert np.flatnonzero(speakers_from_trials(4, enrol, test, targets)[1]).tolist() == [2, 3]
