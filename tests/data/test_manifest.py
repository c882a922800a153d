import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sslsv.data.lists import Manifest, hold_out_speakers, make_trials, read_train_lists, read_trials


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("voxceleb1/a/1.wav", "voxceleb1/a/2.wav", "voxceleb1/b/1.wav", "c/1.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "one").write_text("a voxceleb1/a/1.wav\n\na voxceleb1/a/2.wav\nb voxceleb1/b/1.wav\n")
    (tmp_path / "two").write_text("c c/1.wav\nb c/2.wav\n")
    return tmp_path


def manifest_of(counts: list[int]) -> Manifest:
    speakers = np.repeat(np.arange(len(counts)), counts)
    return Manifest(
        paths=[f"{s}/{i}.wav" for i, s in enumerate(speakers)],
        speakers=speakers,
        speaker_names=[f"id{s}" for s in range(len(counts))],
    )


def test_read_train_lists__lists_are_joined_and_speakers_shared(root: Path) -> None:
    manifest = read_train_lists(root, ("one", str(root / "two")))
    assert manifest.paths == [
        "voxceleb1/a/1.wav",
        "voxceleb1/a/2.wav",
        "voxceleb1/b/1.wav",
        "c/1.wav",
        "c/2.wav",
    ]
    assert manifest.speakers.tolist() == [0, 0, 1, 2, 1]
    assert manifest.speaker_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("a c/1.wav\nb c/1.wav\n", ValueError, "listed twice: list, line 1 and list, line 2"),
        ("a c/1.wav\n\n1 c/1.wav c/2.wav\n", ValueError, "list, line 3: expected `speaker path`"),
        ("\n", ValueError, "is empty"),
        ("a wrong/1.wav\na wrong/2.wav\n", FileNotFoundError, "None of the first 2 recordings"),
    ],
)
def test_read_train_lists__bad_list_is_explained(root: Path, text: str, error: type, words: str) -> None:
    (root / "list").write_text(text)
    with pytest.raises(error, match=words):
        read_train_lists(root, ("list",))


def test_read_train_lists__missing_list_and_root_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        read_train_lists(root, ("nothing",))
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        read_train_lists(root / "nowhere", ("one",))
    with pytest.raises(ValueError, match=r"data\.train_lists is empty"):
        read_train_lists(root, ())


def test_read_trials__prefix_of_voxceleb1_is_added_when_missing(root: Path) -> None:
    (root / "trials").write_text("1 a/1.wav a/2.wav\n0 b/1.wav a/1.wav\n")
    trials = read_trials(root, "trials")
    assert trials.paths == ["voxceleb1/a/1.wav", "voxceleb1/a/2.wav", "voxceleb1/b/1.wav"]
    assert trials.enrol.tolist() == [0, 2] and trials.test.tolist() == [1, 0]
    assert trials.targets.tolist() == [True, False]
    assert trials.versions.tolist() == [0, 0, 0]
    (root / "gone_first").write_text("0 gone.wav lost.wav\n0 b/1.wav a/1.wav\n")
    assert read_trials(root, "gone_first").paths[2:] == ["voxceleb1/b/1.wav", "voxceleb1/a/1.wav"]
    (root / "full").write_text("1 voxceleb1/a/1.wav voxceleb1/a/2.wav\n")
    assert read_trials(root, "full").paths == ["voxceleb1/a/1.wav", "voxceleb1/a/2.wav"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("1 a/1.wav a/2.wav\n2 a/1.wav a/2.wav\n", ValueError, "line 2: the label is '2'"),
        ("1 a/1.wav\n", ValueError, "line 1: expected `1|0 enrolment test`"),
        ("1 x/1.wav x/2.wav\n", FileNotFoundError, "None of the first 2"),
    ],
)
def test_read_trials__bad_list_is_explained(root: Path, text: str, error: type, words: str) -> None:
    (root / "trials").write_text(text)
    with pytest.raises(error, match=words.replace("|", r"\|")):
        read_trials(root, "trials")


def test_hold_out_speakers__split_is_disjoint_complete_and_repeatable() -> None:
    manifest = manifest_of([1, 3, 1, 4, 2, 1, 5])
    training, held_out = hold_out_speakers(manifest, 3, seed=5)
    assert held_out.num_speakers == 3 and training.num_speakers == 4
    assert sorted(training.paths + held_out.paths) == sorted(manifest.paths)
    assert not set(training.speaker_names) & set(held_out.speaker_names)
    assert np.bincount(held_out.speakers).min() >= 2
    for part in (training, held_out):
        assert [f"id{path.split('/')[0]}" for path in part.paths] == [
            part.speaker_names[s] for s in part.speakers
        ]
    assert hold_out_speakers(manifest, 3, seed=5)[1].paths == held_out.paths
    assert any(hold_out_speakers(manifest, 3, seed=s)[1].paths != held_out.paths for s in range(5))


def test_hold_out_speakers__too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out_speakers is 2, but the lists have 2 speakers"):
        hold_out_speakers(manifest_of([2, 2]), 2, seed=1)


@pytest.mark.parametrize("versions", [1, 3])
def test_make_trials__labels_are_true_balanced_and_unique(versions: int) -> None:
    manifest = manifest_of([4, 3, 5, 1])
    trials = make_trials(manifest, seed=3, versions=versions)
    speaker = [path.split("/")[0] for path in trials.paths]
    truth = [speaker[a] == speaker[b] for a, b in zip(trials.enrol, trials.test, strict=True)]
    assert trials.targets.tolist() == truth
    assert trials.targets.sum() == (~trials.targets).sum() > 0
    pairs = {frozenset(pair) for pair in zip(trials.enrol.tolist(), trials.test.tolist(), strict=True)}
    assert len(pairs) == len(trials)
    assert set(trials.versions.tolist()) == set(range(versions))
    entries = list(zip(trials.paths, trials.versions.tolist(), strict=True))
    assert len(set(entries)) == len(entries)
    # A speaker's two sides are different recordings wherever there are two.
    same = [trials.paths[a] == trials.paths[b] for a, b in zip(trials.enrol, trials.test, strict=True)]
    assert all(trials.paths[trials.enrol[j]].startswith("3/") for j in np.flatnonzero(same))


def test_make_trials__without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="No speaker has two utterances"):
        make_trials(manifest_of([1, 1, 1]), seed=1)
    with pytest.raises(ValueError, match="at least 2 speakers"):
        make_trials(manifest_of([3]), seed=1)
    assert make_trials(manifest_of([1, 1, 1]), seed=1, versions=2).targets.sum() == 3


def test_make_trials__max_targets_is_kept() -> None:
    trials = make_trials(manifest_of([30] * 5), seed=1, max_targets=40)
    assert trials.targets.sum() == 40 and len(trials) == 80


def test_make_trials__speakers_with_very_many_utterances_cost_no_memory_for_all_pairs() -> None:
    manifest = manifest_of([20_000, 20_000])
    tracemalloc.start()
    trials = make_trials(manifest, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert trials.targets.sum() == 5000 and len(trials) == 10_000
    assert not (trials.enrol == trials.test).any()
    speaker = np.array([path.split("/")[0] for path in trials.paths])
    assert (trials.targets == (speaker[trials.enrol] == speaker[trials.test])).all()
