"""The table of docs/data.md: every form of a list, and what is read of it or said about it."""

import codecs
import os
from pathlib import Path

import pytest

from sslsv.data import list_forms
from sslsv.data.list_forms import (
    LABELS,
    RECORDINGS,
    TRAIN,
    TRIALS,
    Kind,
    Rows,
    is_trial_list,
    list_blocks,
    list_files,
    why_unlistable,
)
from sslsv.data.lists import find_recordings, read_train_lists, read_trials

ANN = [("ann", "a/1.wav"), ("ann", "a/2.wav"), ("bob", "b/1.wav")]
PAIRS = [("1", "a/1.wav", "a/2.wav"), ("0", "a/1.wav", "b/1.wav")]
WORDS = [("target", *PAIRS[0][1:]), ("nontarget", *PAIRS[1][1:])]


def rows_of(folder: Path, kind: Kind, content: str | bytes, name: str = "list") -> tuple[str, list[tuple]]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = Rows(folder, name, kind)
    return rows.form, [row[1:] for row in rows]


TRAIN_FORMS = {
    "plain": ("ann a/1.wav\nann a/2.wav\nbob b/1.wav\n", ""),
    "blank lines, blanks at the ends": ("\n  ann   a/1.wav \n\nann\ta/2.wav\n \nbob b/1.wav", ""),
    "commas": ("ann,a/1.wav\nann, a/2.wav\nbob,b/1.wav\n", ""),
    "CRLF": ("ann a/1.wav\r\nann a/2.wav\r\nbob b/1.wav\r\n", ""),
    "CR": ("ann a/1.wav\rann a/2.wav\rbob b/1.wav\r", ""),
    "speaker last": ("a/1.wav ann\na/2.wav ann\nb/1.wav bob\n", "`path speaker` lines"),
    "speaker last, tabs": ("a/1.wav\tann\na/2.wav\tann\nb/1.wav\tbob\n", "`path speaker` lines"),
    "upstream's table": ("File,Speaker\na/1.wav,ann\na/2.wav,ann\nb/1.wav,bob\n", "a table (speaker: Spea"),
    "quotes": ('"Speaker ID";"File Name"\n"ann";a/1.wav\nann;"a/2.wav"\nbob;b/1.wav\n', "a table"),
    "tabs and more columns": (
        'client_id\tpath\tsentence\nann\ta/1.wav\tx "y\nann\ta/2.wav\t"\nbob\tb/1.wav\t\n',
        "a table (speaker: client_id",
    ),
    "names above plain lines": ("# speaker path\nann a/1.wav\nann a/2.wav\nbob b/1.wav\n", "a table"),
    "sets": ("File,Spk,Set\na/1.wav,ann,train\nc,c,test\na/2.wav,ann,Train\nb/1.wav,bob,train\n", "a table"),
    "JSON lines": (
        '{"key": "x", "wav": "a/1.wav", "spk": "ann"}\n{"key": "y", "wav": "a/2.wav", "spk": "ann"}\n'
        '{"key": "z", "wav": "b/1.wav", "spk": "bob"}\n',
        "JSON lines",
    ),
    "folders written by find": ("ann ./a/1.wav\nann ./a/2.wav\nbob ./b/1.wav\n", ""),
}


@pytest.mark.parametrize(("content", "form"), TRAIN_FORMS.values(), ids=TRAIN_FORMS)
def test_rows__a_train_list_is_read_in_every_form(tmp_path: Path, content: str, form: str) -> None:
    found, rows = rows_of(tmp_path, TRAIN, content)
    assert rows == ANN
    assert found.startswith(form) and bool(found) is bool(form)


TRIAL_FORMS = {
    "plain": ("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n", "", PAIRS),
    "commas": ("1,a/1.wav,a/2.wav\n0,a/1.wav,b/1.wav\n", "", PAIRS),
    "words": ("target a/1.wav a/2.wav\nnontarget a/1.wav b/1.wav\n", "", WORDS),
    "Kaldi": ("a/1.wav a/2.wav target\na/1.wav b/1.wav nontarget\n", "`enrolment test target` lines", WORDS),
    "label last": ("a/1.wav a/2.wav 1\na/1.wav b/1.wav 0\n", "`enrolment test target` lines", PAIRS),
    "scores": ("1 a/1.wav a/2.wav 0.71\n0 a/1.wav b/1.wav -1e-3\n", "", PAIRS),
    "scores, label last": (
        "a/1.wav a/2.wav 1 0.7\na/1.wav b/1.wav 0 0.1\n",
        "`enrolment test target` lines",
        PAIRS,
    ),
    "a score first": (
        "a/1.wav a/2.wav 0.7 target\na/1.wav b/1.wav 0 nontarget",
        "`enrolment test sco",
        WORDS,
    ),
    "whole scores": ("1 a/1.wav a/2.wav 1\n0 a/1.wav b/1.wav -3\n", "", PAIRS),
    "a table": ("label,enroll,test\n1,a/1.wav,a/2.wav\n0,a/1.wav,b/1.wav\n", "a table (target: label", PAIRS),
    "a table of pandas": (
        "file_1;file_2;is target\na/1.wav;a/2.wav;1\na/1.wav;b/1.wav;0\n",
        "a table",
        PAIRS,
    ),
    "JSON lines": (
        '{"enrol": "a/1.wav", "test": "a/2.wav", "label": 1}\n{"enrol": "a/1.wav", "test": "b/1.wav", "label": 0}',
        "JSON lines",
        PAIRS,
    ),
    "scores of an evaluation": (
        "#target enrolment test cosine\ntrue a/1.wav a/2.wav 0.7\nFalse a/1.wav b/1.wav 0.1\n",
        "a table",
        [("true", *PAIRS[0][1:]), ("false", *PAIRS[1][1:])],
    ),
}


@pytest.mark.parametrize(("content", "form", "pairs"), TRIAL_FORMS.values(), ids=TRIAL_FORMS)
def test_rows__trials_are_read_in_every_form(tmp_path: Path, content: str, form: str, pairs: list) -> None:
    found, rows = rows_of(tmp_path, TRIALS, content)
    assert rows == pairs
    assert found.startswith(form) and bool(found) is bool(form)
    assert is_trial_list(tmp_path, "list")


OTHER_FORMS = {
    "paths": (RECORDINGS, "a/1.wav\nb/my 1.wav\n", [("", "a/1.wav"), ("b/my", "1.wav")]),
    "paths below a name": (RECORDINGS, "path\na/1.wav\nb/1.wav\n", [("", "a/1.wav"), ("", "b/1.wav")]),
    "speakers named by paths": (TRAIN, "a/1.wav a/1.wav\n", [("a/1.wav", "a/1.wav")]),
    "speaker last": (RECORDINGS, "a/1.wav ann\n", [("ann", "a/1.wav")]),
    "labels": (LABELS, "loud a/1.wav\nlow b/1.wav\n", [("loud", "a/1.wav", ""), ("low", "b/1.wav", "")]),
    "labels last": (LABELS, "a/1.wav loud\n", [("loud", "a/1.wav", "")]),
    "labels of speakers": (LABELS, "very loud\ta/1.wav\tann\n", [("very loud", "a/1.wav", "ann")]),
    "table of labels": (LABELS, "path,speaker,label\na/1.wav,ann,loud\n", [("loud", "a/1.wav", "ann")]),
}


@pytest.mark.parametrize(("kind", "content", "rows"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_rows__recordings_and_labels_are_read_too(
    tmp_path: Path, kind: Kind, content: str, rows: list
) -> None:
    assert rows_of(tmp_path, kind, content)[1] == rows
    assert not is_trial_list(tmp_path, "list")


TEXT = "jürg a/é.wav\n"


@pytest.mark.parametrize(
    "content",
    [
        2 * TEXT.encode("utf-8-sig"),  # lists with marks that were joined
        (2 * TEXT).encode("utf-16"),
        codecs.BOM_UTF16_BE + (2 * TEXT).encode("utf-16-be"),
        (2 * TEXT).encode("utf-32"),
    ],
)
def test_rows__marks_and_encodings_leave_no_trace(tmp_path: Path, content: bytes) -> None:
    assert rows_of(tmp_path, TRAIN, content) == ("", 2 * [("jürg", "a/é.wav")])


@pytest.mark.parametrize(
    "odd", ["", "zoë z/1.wav", "z.1 z/1.wav", "z/1.wav z/1.wav", "z my talks/1.wav", " ", "z ./1.wav"]
)
@pytest.mark.parametrize("place", [0, 17, 60])
def test_rows__blocks_and_single_lines_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, place: int
) -> None:
    lines = [f"id{i // 9} id{i // 9}/{i}.wav" for i in range(60)]
    lines.insert(place, odd)
    (tmp_path / "list").write_text("\n".join(lines))
    monkeypatch.setattr(list_forms, "_BLOCK_CHARACTERS", 200)
    rows = list(Rows(tmp_path, "list", TRAIN))
    monkeypatch.setattr(Rows, "_columns", lambda self, text: None)
    assert rows == list(Rows(tmp_path, "list", TRAIN))
    assert len(rows) == 60 + bool(odd.strip()) and rows[-1][0] == (61 if odd.strip() or place < 60 else 60)


WRONG = {
    "no path": (TRAIN, "alone\n", "line 1: expected `speaker path`, got 'alone'"),
    "two paths": (TRAIN, "ann a/1.wav\n1 a/1.wav a/2.wav\n", "line 2: .* a blank after what ends as"),
    "path and length": (TRAIN, "a/1.wav 3.2\n", "line 1: expected `speaker path`"),
    "trials for training": (TRAIN, "a/1.wav a/2.wav target\n", "line 1: expected `speaker path`"),
    "unknown names": (TRAIN, "who,where\nann,a/1.wav\n", "'who,where' .* call them speaker and path"),
    "no speaker": (TRAIN, "id,file\nx,a/1.wav\n", "'id', 'file' none is known as speaker"),
    "two paths in a table": (TRAIN, "file,wav,spk\nx,a/1.wav,ann\n", "'file' and 'wav' can both be the path"),
    "a short line": (TRAIN, "file,spk\na/1.wav\n", "line 2: expected `speaker path`"),
    "a key that comes late": (
        TRAIN,
        '{"wav": "a/1.wav", "spk": "ann"}\n{"wav": "a/1.wav", "spk": "ann", "offset": 3, "duration": 2}\n',
        "line 2: .*is not in the first line: give it there too",
    ),
    "broken JSON": (TRAIN, '{"wav": "a/1.wav",\n"spk": "ann"}\n', "line 1: "),
    "start of what": (TRAIN, "file,spk,start,stop\na/1.wav,ann,0,48000\n", "line 2: .* seconds or samples"),
    "bad label": (TRIALS, "1 a/1.wav a/2.wav\n2 a/1.wav a/2.wav\n", "line 2: expected `1.0 enrolment test`"),
    "label or score": (
        TRIALS,
        "a/1.wav a/2.wav 1 0\nb/1.wav a/1.wav 0 1\n",
        "`enrolment test target` or `enrolment test score target`. Name the columns",
    ),
    "no label": (TRIALS, "enrol,test\na/1.wav,a/2.wav\n", "'enrol', 'test' none is known as target"),
    "blanks": (TRIALS, "1 my a/1.wav a/2.wav\n", "line 1: .* Paths with blanks in them need tabs"),
    "up": (TRIALS, "1 a/1.wav ../b.wav\n", r"the path '../b.wav' has a '..' in it"),
    "which is the label": (LABELS, "a/1.wav loud ann\n", "`path label speaker` or `path speaker label`"),
    "empty": (TRAIN, "\n", "is empty"),
    "Latin-1": (TRAIN, b"ann a/1.wav\nann a/\xe9.wav\n", r"line 2: b'ann a/\\xe9.wav' is not UTF-8"),
    "UTF-16 without a mark": (TRIALS, "1 a b\n".encode("utf-16-le"), "UTF-16 without a byte order"),
}


@pytest.mark.parametrize(("kind", "content", "sentence"), WRONG.values(), ids=WRONG)
def test_rows__what_is_wrong_or_has_two_readings_is_a_sentence(
    tmp_path: Path, kind: Kind, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        rows_of(tmp_path, kind, content)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("ID,duration,wav,start,stop,spk_id\nx,3.0,a/1.wav,16000,64000,ann\n", "a/1.wav#t=1,4"),
        ("ID,dur,path,start,stop,spk\nx,2.5,a/1.wav,1.25,3.75,ann\n", "a/1.wav#t=1.25,3.75"),
        ("file,spk,begin,end\na/1.wav,ann,0.5,2\n", "a/1.wav#t=0.5,2"),
        ('{"audio_filepath": "a/1.wav", "offset": 3, "duration": 2.5, "label": "ann"}\n', "a/1.wav#t=3,5.5"),
        ('{"audio_filepath": "a/1.wav", "offset": null, "duration": 2.5, "label": "ann"}\n', "a/1.wav"),
    ],
    ids=["SpeechBrain, samples", "3D-Speaker, seconds", "fractions", "NeMo", "no start"],
)
def test_rows__parts_of_recordings_are_named_by_their_seconds(tmp_path: Path, row: str, name: str) -> None:
    assert rows_of(tmp_path, TRAIN, row)[1] == [("ann", name)]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a/my file.wav", None),
        ("a/1.wav b.wav", "blank after"),
        ("a\n.wav", "line break"),
        ("a\tb.wav", "a tab"),
        (" a.wav", "begins or ends"),
        ("a/../../b.wav", "has a '..' in it"),
        ("a/\udce9.wav", "is not UTF-8"),
        ("a..b.wav", None),
    ],
)
def test_why_unlistable__is_none_exactly_where_a_list_returns_the_path(
    tmp_path: Path, path: str, why: str | None
) -> None:
    reason = why_unlistable(path)
    assert reason is None if why is None else why in str(reason)
    try:
        came_back = rows_of(tmp_path, TRAIN, os.fsencode(f"a {path}\n"))[1] == [("a", path)]
    except ValueError:
        came_back = False
    assert came_back is (why is None)


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """A Kaldi folder below a root with the recordings a/1.wav, a/2.wav, b/1.wav."""
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
        ("segments", "ann-1 other 0 1\nann-2 x 0 1\nbob-1 y 0 1\n", "has no file for other, but nothing"),
        ("segments", "ann-1 ann-1 0 1\nann-2 ann-1 0\nbob-1 bob-1 0 1\n", "no start and end for ann-2"),
        ("utt2spk", None, "has no utt2spk, so nothing tells who speaks"),
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


def test_list_blocks__a_folder_that_is_no_list_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, and no Kaldi folder, .*prepare_data folder"):
        next(list_blocks(tmp_path.parent, tmp_path.name))
