from collections import Counter
from pathlib import Path

import pytest

from sslsv.prepare_data.validation_trials import Trial, Utterance, choose_held_out, draw_trials, read_genders


def corpus(num_speakers: int, recordings: int = 3, utterances: int = 3) -> list[Utterance]:
    return [
        (f"id{speaker:05d}", f"voxceleb2/id{speaker:05d}/video{recording}/{utterance:05d}.wav")
        for speaker in range(num_speakers)
        for recording in range(recordings)
        for utterance in range(utterances)
    ]


def genders_of(num_speakers: int) -> dict[str, str]:
    return {f"id{speaker:05d}": "f" if speaker % 3 else "m" for speaker in range(num_speakers)}


def speaker_of(path: str) -> str:
    return path.split("/")[1]


def test_choose_held_out__is_the_same_whatever_else_is_in_the_corpus() -> None:
    small = choose_held_out(corpus(30), {}, 6, seed=1)
    assert small == choose_held_out(corpus(30)[::-1], {}, 6, seed=1)
    assert small != choose_held_out(corpus(30), {}, 6, seed=2)
    # More speakers push some out of the first six, but reorder none of them.
    large = choose_held_out(corpus(40), {}, 6, seed=1)
    assert {name for name in large if int(name[2:]) < 30} <= small


def test_choose_held_out__takes_as_many_women_as_men() -> None:
    genders = genders_of(60)
    chosen = choose_held_out(corpus(60), genders, 20, seed=0)
    assert Counter(genders[name] for name in chosen) == {"f": 10, "m": 10}


def test_choose_held_out__fills_up_where_one_gender_is_too_few() -> None:
    genders = {name: "f" for name in genders_of(30)} | {"id00003": "m"}
    assert len(choose_held_out(corpus(30), genders, 10, seed=0)) == 10


def test_choose_held_out__takes_speakers_of_one_recording_last() -> None:
    utterances = corpus(5) + [(f"id9000{i}", f"voxceleb2/id9000{i}/v/1.wav") for i in range(20)]
    assert choose_held_out(utterances, {}, 5, seed=0) == {f"id{i:05d}" for i in range(5)}


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return draw_trials(corpus(12), genders_of(12), 400, seed=3)


def test_draw_trials__is_balanced_and_true_and_repeats_no_pair(trials: list[Trial]) -> None:
    assert len(trials) == 400
    assert sum(is_target for is_target, _, _ in trials) == 200
    assert all(is_target == (speaker_of(a) == speaker_of(b)) for is_target, a, b in trials)
    assert len({frozenset(pair) for _, *pair in trials}) == 400


def test_draw_trials__targets_are_of_two_recordings(trials: list[Trial]) -> None:
    assert all(a.split("/")[2] != b.split("/")[2] for is_target, a, b in trials if is_target)


def test_draw_trials__nontargets_are_half_of_one_gender_half_of_both(trials: list[Trial]) -> None:
    genders = genders_of(12)
    is_same = [
        genders[speaker_of(a)] == genders[speaker_of(b)] for is_target, a, b in trials if not is_target
    ]
    assert (len(is_same), sum(is_same)) == (200, 100)


def test_draw_trials__has_every_speaker_about_equally_often() -> None:
    trials = draw_trials(corpus(12), {}, 400, seed=3)
    targets = Counter(speaker_of(a) for is_target, a, _ in trials if is_target)
    assert set(targets.values()) <= {16, 17}
    sides = Counter(speaker_of(path) for is_target, *pair in trials if not is_target for path in pair)
    assert max(sides.values()) <= 1.3 * min(sides.values())


def test_draw_trials__is_decided_by_the_seed() -> None:
    first = draw_trials(corpus(6), {}, 60, seed=0)
    assert first == draw_trials(corpus(6)[::-1], {}, 60, seed=0)
    assert first != draw_trials(corpus(6), {}, 60, seed=1)


def test_draw_trials__stays_balanced_where_there_are_too_few_pairs() -> None:
    trials = draw_trials(corpus(2, recordings=2, utterances=2), {}, 10_000, seed=0)
    assert sum(is_target for is_target, _, _ in trials) == 8  # 4 between the recordings of each speaker
    assert len(trials) == 16


def test_draw_trials__refuses_what_can_make_none() -> None:
    with pytest.raises(ValueError, match="need 2 speakers or more, got 1"):
        draw_trials(corpus(1), {}, 10, seed=0)
    with pytest.raises(ValueError, match="a speaker with two utterances"):
        draw_trials(corpus(3, recordings=1, utterances=1), {}, 10, seed=0)


def test_read_genders__reads_both_of_voxcelebs_tables(tmp_path: Path) -> None:
    first = tmp_path / "vox1_meta.csv"
    first.write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n"
    )
    second = tmp_path / "vox2_meta.csv"
    second.write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender,Set\nid00012 ,n000001 ,m ,dev \nid00015 ,n000012 ,f ,test\n"
    )
    assert read_genders(first) == {"id10001": "m"}
    assert read_genders(second) == {"id00012": "m", "id00015": "f"}
    assert read_genders(tmp_path / "none") == {}
