"""Kaldi folders as lists."""

import codecs
from pathlib import Path

import pytest

from sslsv.data.kaldi import list_files
from sslsv.data.lists import find_recordings, read_train_lists, read_trials


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """Make a Kaldi folder below a root with the recordings a/1.wav, a/2.wav, b/1.wav."""
    folder = tmp_path / "kaldi"
    for path in ("kaldi", "a", "b"):
        (tmp_path / path).mkdir()
    for path in ("a/1.wav", "a/2.wav", "b/1.wav"):
        (tmp_path / path).touch()
    (folder / "wav.scp").write_text(f"ann-1 a/1.wav\nann-2 {tmp_path}/a/2.wav\nbob-1 b/1.wav\n")
    (folder / "utt2spk").write_text("ann-1 ann\nann-2 ann\nbob-1 bob\n")
    (folder / "trials").write_text("ann-1 ann-2 target\nann-1 bob-1 nontarget\n")
    return folder


@pytest.mark.parametrize("name", ["kaldi", "kaldi/", "kaldi/utt2spk", "kaldi/wav.scp"])
def test_kaldi__a_folder_or_a_file_of_it_is_a_train_list(kaldi: Path, name: str) -> None:
    (kaldi / "utt2spk").write_bytes(codecs.BOM_UTF8 + b"ann-1 ann\r\nann-2 ann\r\nbob-1 bob\r\n")
    manifest = read_train_lists(kaldi.parent, [name])
    assert manifest.paths == ["a/1.wav", f"{kaldi.parent}/a/2.wav", "b/1.wav"]
    assert manifest.speakers.tolist() == [0, 0, 1] and manifest.speaker_names == ["ann", "bob"]
    assert manifest.notes == (f"{name} is read as a Kaldi folder: 2 speakers, 3 recordings",)


def test_kaldi__speakers_come_from_spk2utt_and_utterances_without_one_are_counted(kaldi: Path) -> None:
    (kaldi / "utt2spk").unlink()
    (kaldi / "spk2utt").write_text("ann ann-1 ann-2\n")
    (note,) = read_train_lists(kaldi.parent, ["kaldi"]).notes
    assert note == "kaldi is read as a Kaldi folder: 1 speakers, 2 recordings; 1 rows are left out"


@pytest.mark.parametrize("name", ["kaldi", "kaldi/trials", "kaldi/others"])
def test_kaldi__trials_name_utterances_or_paths(kaldi: Path, name: str) -> None:
    (kaldi / "others").write_text("ann-1 ann-2 target\na/1.wav bob-1 nontarget\n")
    trials = read_trials(kaldi.parent, name)
    assert trials.paths == ["a/1.wav", f"{kaldi.parent}/a/2.wav", "b/1.wav"]
    assert trials.targets.tolist() == [True, False]
    assert "2 trials" in trials.notes[0]


def test_kaldi__segments_are_parts_of_recordings(kaldi: Path) -> None:
    (kaldi / "segments").write_text("ann-1a ann-1 0.50 2.25\nann-1b ann-1 3 -1\nbob-1 bob-1 0 1\n")
    (kaldi / "utt2spk").write_text("ann-1a ann\nann-1b ann\nbob-1 bob\n")
    (kaldi / "trials").write_text("ann-1a ann-1b target\nann-1a bob-1 nontarget\n")
    paths = ["a/1.wav#t=0.5,2.25", "a/1.wav#t=3,", "b/1.wav#t=0,1"]
    assert read_train_lists(kaldi.parent, ["kaldi"]).paths == paths
    assert read_trials(kaldi.parent, "kaldi").paths == paths
    rows, notes = find_recordings(str(kaldi), kaldi.parent)
    assert rows == [("ann", paths[0]), ("ann", paths[1]), ("bob", paths[2])] and "3 recordings" in notes[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("wav.scp", "ann-1 sox a/1.wav -t wav - |\nann-2 x\nbob-1 y\n", "a command, which is not run"),
        ("wav.scp", "ann-1 raw.ark:17\nann-2 a/2.wav\nbob-1 b/1.wav\n", "an archive, which is not read"),
        ("wav.scp", "ann-1 a/1.wav\nann-2\n", "wav.scp, line 2: expected two fields"),
        ("wav.scp", "ann-1 a/1.wav\n", "2 utterances have a speaker, .* the first: ann-2"),
        ("wav.scp", "", "wav.scp is empty"),
        ("wav.scp", "ann-1 a/1.wav\nann-1 a/2.wav\n", "wav.scp, line 2: ann-1 is listed twice"),
        ("utt2spk", "ann-1 ann\n\nann-1 bob\n", "utt2spk, line 3: ann-1 is listed twice"),
        ("segments", "ann-1 other 0 1\nann-2 x 0 1\nbob-1 y 0 1\n", "must have a file for other, but"),
        ("segments", "ann-1 ann-1 0 1\nann-2 ann-1 0\nbob-1 bob-1 0 1\n", "has '0' for ann-2"),
        ("segments", "ann-1 ann-1 0 1\nann-2 ann-1 0 1 0\nbob-1 bob-1 0 1\n", "'0 1 0' .* each channel"),
        ("segments", "ann-1 ann-1 a b\nann-2 ann-1 0 1\nbob-1 bob-1 0 1\n", "segments has 'a b' for ann-1"),
        ("utt2spk", None, "has no utt2spk, so the speakers are unknown"),
    ],
)
def test_kaldi__what_it_lacks_is_a_sentence(kaldi: Path, name: str, content: str, sentence: str) -> None:
    (kaldi / name).unlink(missing_ok=True)
    if content is not None:
        (kaldi / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_train_lists(kaldi.parent, ["kaldi"])


def test_kaldi__with_recordings_in_it_has_two_readings(kaldi: Path) -> None:
    (kaldi / "x.wav").touch()
    with pytest.raises(ValueError, match="in two ways, as a Kaldi folder and as 1 recordings: give .*scp"):
        find_recordings(str(kaldi), kaldi.parent)
    assert len(find_recordings(str(kaldi / "wav.scp"), kaldi.parent)[0]) == 3


def test_list_files__of_a_kaldi_folder_are_its_texts(kaldi: Path) -> None:
    assert list_files(str(kaldi)) == [f"{kaldi}/{name}" for name in ("wav.scp", "utt2spk", "trials")]
    assert list_files(f"{kaldi}/trials") == [f"{kaldi}/trials"]
