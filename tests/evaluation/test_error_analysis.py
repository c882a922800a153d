import numpy as np

from sslsv.data.lists import Trials
from sslsv.evaluation.error_analysis import SpeakerErrors, hardest_trials, speaker_names
from sslsv.evaluation.trials import ScoredList


def scored(enrol, test, targets, speakers):
    trials = Trials(
        paths=[f"{i}.wav" for i in range(len(speakers))],
        enrol=np.array(enrol),
        test=np.array(test),
        targets=np.array(targets, dtype=bool),
    )
    embeddings = np.zeros((len(speakers), 2), dtype=np.float32)
    return ScoredList(
        name="trials",
        trials=trials,
        speakers=np.array(speakers),
        embeddings=embeddings,
        scores={},
        summary={},
    )


def test_speaker_errors__counts_a_nontarget_trial_for_both_speakers():
    item = scored([0, 0, 1, 2], [1, 2, 3, 3], [1, 0, 0, 1], speakers=[0, 0, 1, 1])
    errors = SpeakerErrors.of(item, [0.2, 0.9, 0.1, 0.5], threshold=0.5)
    assert errors.recordings.tolist() == [2, 2]
    assert errors.targets.tolist() == [1, 1] and errors.misses.tolist() == [1, 0]  # 0.5 is accepted
    assert errors.nontargets.tolist() == [2, 2] and errors.false_alarms.tolist() == [1, 1]
    assert errors.miss_rates.tolist() == [1.0, 0.0] and errors.false_alarm_rates.tolist() == [0.5, 0.5]


def test_speaker_errors__agree_with_a_loop_over_the_trials():
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(7), 5)
    enrol, test = generator.integers(35, size=(2, 400))
    targets = speakers[enrol] == speakers[test]
    scores = generator.normal(size=400)
    errors = SpeakerErrors.of(scored(enrol, test, targets, speakers), scores, 0.3)
    for speaker in range(7):
        mine = [j for j in range(400) if targets[j] and speakers[enrol[j]] == speaker]
        others = [
            (speakers[enrol[j]], speakers[test[j]]).count(speaker) * (not targets[j]) for j in range(400)
        ]
        assert errors.targets[speaker] == len(mine)
        assert errors.misses[speaker] == sum(scores[j] < 0.3 for j in mine)
        assert errors.nontargets[speaker] == sum(others)
        assert errors.false_alarms[speaker] == sum(
            n for n, score in zip(others, scores, strict=True) if score >= 0.3
        )


def test_speaker_errors__a_rate_over_few_trials_weighs_little():
    many, few = np.array([100, 100, 1]), np.zeros(3, dtype=np.int64)
    errors = SpeakerErrors(
        recordings=many, targets=many, misses=np.array([50, 10, 1]), nontargets=few, false_alarms=few
    )
    assert errors.worst(3).tolist() == [0, 2]  # not speaker 1, who has fewer misses than the average
    assert np.isnan(errors.false_alarm_rates).all()


def test_hardest_trials__are_low_targets_and_high_nontargets_in_order():
    scores, targets = [0.9, 0.1, 0.5, 0.8, 0.2, 0.7], np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    low, high = hardest_trials(scores, targets, 2)
    assert low.tolist() == [1, 2] and high.tolist() == [3, 5]
    assert [len(part) for part in hardest_trials(scores, targets, 10)] == [3, 3]


def test_speaker_names__are_the_folders_that_tell_speakers_apart():
    paths = ["vox/id1/a/1.wav", "vox/id1/b/1.wav", "vox/id2/a/1.wav", "vox/id3/c/1.wav"]
    assert speaker_names(paths, np.array([0, 0, 1, 2])) == ["id1", "id2", "id3"]


def test_speaker_names__where_folders_are_no_speakers_are_numbers():
    paths = ["day1/a.wav", "day2/b.wav", "day1/c.wav", "x.wav"]
    assert speaker_names(paths, np.array([0, 0, 1, 2])) == ["speaker 0", "speaker 1", "speaker 2"]
    assert speaker_names([], np.zeros(0, dtype=np.int64)) == []
