import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sslsv.data.lists import (
    Manifest,
    find_lists,
    find_recordings,
    hold_out_speakers,
    keep_fraction,
    make_trials,
    open_corpus,
    read_train_lists,
    read_trials,
)
from sslsv.data.section import DataConfig


def test_find_lists__are_those_with_the_usual_names(tmp_path: Path) -> None:
    lists = [
        "cv-17.0_train_list",
        "cv-17.0_validation_trials",
        "trials",
        "vox_test_O.txt",
        "x_train_list",
        "x_train_list.jsonl",
        "x_trials.csv",
    ]
    for name in (
        *lists,
        "x_train_list.old",
        "readme",
        "x_trials.npz",
        "._trials",
        "cv-17.0_validation_trials.old2",
    ):
        (tmp_path / name).touch()
    assert find_lists(tmp_path) == lists


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("voxceleb1/a/1.wav", "voxceleb1/a/2.wav", "voxceleb1/b/1.wav", "c/1.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "one").write_text("a voxceleb1/a/1.wav\n\na voxceleb1/a/2.wav\nb voxceleb1/b/1.wav\n")
    (tmp_path / "two").write_text("c c/1.wav\nb c/2.wav\n")
    return tmp_path


def test_open_corpus__sets_speakers_aside_and_then_takes_a_fraction(root: Path) -> None:
    data = DataConfig(root=str(root), train_lists=("one", "two"))
    manifest, held_out = open_corpus(data, 0, seed=3)
    assert len(manifest) == 5 and held_out is None
    expected, kept = hold_out_speakers(manifest, 1, 3), open_corpus(data, 1, seed=3)
    assert [part.paths for part in kept] == [part.paths for part in expected]
    fewer, same = open_corpus(replace(data, fraction=0.5), 1, seed=3)
    assert same.paths == expected[1].paths
    assert len(fewer) == round(len(expected[0]) / 2) and set(fewer.paths) < set(expected[0].paths)
    with pytest.raises(ValueError, match="3 speakers cannot be held out of 3"):
        open_corpus(data, 3, seed=3)


def manifest_of(counts: list[int]) -> Manifest:
    speakers = np.repeat(np.arange(len(counts)), counts)
    return Manifest(
        paths=[f"{s}/{i}.wav" for i, s in enumerate(speakers)],
        speakers=speakers,
        speaker_names=[f"id{s}" for s in range(len(counts))],
    )


def test_open_corpus__speakers_are_held_out_of_other_lists_where_these_hold_clusters(root: Path) -> None:
    data = DataConfig(root=str(root), train_lists=("one", "two"))
    manifest, held_out = open_corpus(data, 1, seed=3)
    clusters = [f"cluster {path}" for path in [*held_out.paths[:1], *manifest.paths]]
    (root / "clusters").write_text("\n".join(clusters))
    data = DataConfig(root=str(root), train_lists=("clusters",), held_out_lists=("one", "two"))
    clustered, same = open_corpus(data, 1, seed=3)
    assert same.paths == held_out.paths and clustered.paths == manifest.paths
    assert clustered.speaker_names == ["cluster"]


def test_read_train_lists__lists_are_joined_and_speakers_shared(root: Path) -> None:
    manifest = read_train_lists(root, ("one", str(root / "two")))
    voxceleb = ["voxceleb1/a/1.wav", "voxceleb1/a/2.wav", "voxceleb1/b/1.wav"]
    assert manifest.paths == [*voxceleb, "c/1.wav", "c/2.wav"]
    assert manifest.speakers.tolist() == [0, 0, 1, 2, 1]
    assert manifest.speaker_names == ["a", "b", "c"]
    (note,) = manifest.notes
    assert note.startswith(f"1 speaker(s) are named in both one and {root}/two and taken as the same people:")


@pytest.mark.parametrize(
    ("first", "second", "is_noted"),
    [
        ("voxceleb1/a/1.wav", "voxceleb1/a/2.wav", False),
        ("a/1.wav", "a/2.wav", False),
        ("clips/1.wav", "clips/2.wav", False),
        ("x/a/1.wav", "y/a/1.wav", True),
        ("x/a/1.wav", "x/wav/a/1.wav", True),
        ("{}/x/a/1.wav", "{}/y/a/1.wav", True),
    ],
)
def test_read_train_lists__equal_names_in_different_folders_are_noted(
    tmp_path: Path, first: str, second: str, is_noted: bool
) -> None:
    for name, path in {"one": first.format(tmp_path), "two": second.format(tmp_path)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        (tmp_path / name).write_text(f"a {path}\n")
    assert bool(read_train_lists(tmp_path, ["one", "two"]).notes) is is_noted


READERS = {"train": read_train_lists, "trials": lambda root, names: read_trials(root, *names)}


@pytest.mark.parametrize(
    ("kind", "text", "error", "words"),
    [
        ("train", "a c/1.wav\nb c/1.wav\n", ValueError, "list, line 2: c/1.wav is listed twice"),
        ("train", "file,spk,set\nc/1.wav,c,dev\n", ValueError, "list lists nothing to train on"),
        ("train", "a wrong/1.wav\na wrong/2.wav\n", FileNotFoundError, "None of the first 2 recordings"),
        ("trials", "1 x/1.wav x/2.wav\n", FileNotFoundError, "None of the first 2"),
        ("trials", None, FileNotFoundError, r"list does not exist\. Lists are looked up below data\.root"),
    ],
)
def test_readers__bad_list_is_explained(
    root: Path, kind: str, text: str | None, error: type, words: str
) -> None:
    if text:
        (root / "list").write_text(text)
    with pytest.raises(error, match=words):
        READERS[kind](root, ["list"])


@pytest.mark.parametrize("folders", ["", "voxceleb1/", "voxceleb1/wav/", "wav/"])
def test_read_trials__folders_that_voxcelebs_lists_leave_out_are_found(tmp_path: Path, folders: str) -> None:
    for name in "12":
        (tmp_path / folders / "id10270").mkdir(parents=True, exist_ok=True)
        (tmp_path / folders / "id10270" / f"{name}.wav").touch()
    (tmp_path / "trials").write_text("0 gone.wav lost.wav\n1 id10270/1.wav id10270/2.wav\n")
    trials = read_trials(tmp_path, "trials")
    assert trials.paths[2:] == [f"{folders}id10270/{name}.wav" for name in "12"]
    assert (trials.enrol.tolist(), trials.test.tolist()) == ([0, 2], [1, 3])
    assert trials.targets.tolist() == [False, True] and trials.versions.tolist() == [0, 0, 0, 0]


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


@pytest.mark.parametrize("of_each_speaker", [False, True])
def test_keep_fraction__smaller_ones_are_part_of_larger_ones(of_each_speaker: bool) -> None:
    manifest = manifest_of([1, 40, 3, 25, 131])
    speaker_of = {
        path: manifest.speaker_names[s] for path, s in zip(manifest.paths, manifest.speakers, strict=True)
    }
    larger = list(manifest.paths)
    for fraction in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        kept = keep_fraction(manifest, fraction, 7, of_each_speaker)
        assert kept.paths == [path for path in larger if path in set(kept.paths)]  # in the order of the lists
        assert [kept.speaker_names[s] for s in kept.speakers] == [speaker_of[path] for path in kept.paths]
        assert set(kept.speakers) == set(range(kept.num_speakers))  # no class without an utterance
        larger = kept.paths
    assert (
        keep_fraction(manifest, 0.1, 8, of_each_speaker).paths
        != keep_fraction(manifest, 0.1, 7, of_each_speaker).paths
    )


def test_keep_fraction__counts_utterances_or_those_of_each_speaker() -> None:
    manifest = manifest_of([1, 40, 10, 149])
    assert len(keep_fraction(manifest, 0.05, 7, of_each_speaker=False)) == 10
    of_each = keep_fraction(manifest, 0.1, 7, of_each_speaker=True)
    assert np.bincount(of_each.speakers).tolist() == [1, 4, 1, 15]
    with pytest.raises(ValueError, match="data.fraction=0.001 leaves none of 200"):
        keep_fraction(manifest, 0.001, 7, of_each_speaker=False)


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
    # The two recordings of a target trial differ if the speaker has more than one.
    same = [trials.paths[a] == trials.paths[b] for a, b in zip(trials.enrol, trials.test, strict=True)]
    assert all(trials.paths[trials.enrol[j]].startswith("3/") for j in np.flatnonzero(same))


def test_make_trials__without_pairs_is_refused() -> None:
    for counts in ([1, 1, 1], [3]):
        with pytest.raises(ValueError, match="need at least 2 speakers, one of them with two utterances"):
            make_trials(manifest_of(counts), seed=1)
    assert make_trials(manifest_of([1, 1, 1]), seed=1, versions=2).targets.sum() == 3


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


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("voxceleb1\\a\\1.wav", "voxceleb1/a/1.wav"),
        ("voxceleb1/a\\1.wav", "voxceleb1/a/1.wav"),
        ("./voxceleb1/a/1.wav", "voxceleb1/a/1.wav"),
        ("odd\\name.wav", "odd\\name.wav"),
    ],
)
def test_readers__spell_paths_as_the_recordings_that_are_there(root: Path, listed: str, names: str) -> None:
    (root / "odd\\name.wav").touch()
    (root / "train").write_text(f"a {listed}\n")
    (root / "trials").write_text(f"1 {listed} {listed}\n")
    assert read_train_lists(root, ["train"]).paths == [names]
    assert read_trials(root, "trials").paths == [names]
    for name in ("train", "trials"):
        assert [path for _, path in find_recordings(str(root / name), root)[0]] == [names]


def test_find_recordings__of_a_file_a_folder_or_any_list(root: Path) -> None:
    (root / "paths").write_text("c/1.wav\n")
    (root / "trials").write_text("1 voxceleb1/a/1.wav c/1.wav\n")
    named = {"one": [("a", "voxceleb1/a/1.wav"), ("a", "voxceleb1/a/2.wav"), ("b", "voxceleb1/b/1.wav")]}
    named |= {"paths": [("", "c/1.wav")], "trials": [("", "voxceleb1/a/1.wav"), ("", "c/1.wav")]}
    named |= {"c": [("", str(root / "c/1.wav"))], "c/1.wav": [("", str(root / "c/1.wav"))]}
    for target, rows in named.items():
        assert find_recordings(str(root / target), root) == (rows, ())
    (root / "c/notes.txt").touch()
    _, (note,) = find_recordings(
        "c", root
    )  # a path that is not in the working directory is searched below the root
    assert note == "1 files are left out: they lack the suffix of an audio file (notes.txt)"
    assert find_recordings("one", root) == (named["one"], ())
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no audio files, nor a Kaldi folder"):
        find_recordings(str(root / "empty"), root)
