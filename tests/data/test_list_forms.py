"""Test the table of docs/data.md: every form of a list, with the result or the message of reading it."""

import codecs
import contextlib
from pathlib import Path

import pytest

from sslsv.data import list_text
from sslsv.data.list_forms import LABELS, RECORDINGS, TRAIN, TRIALS, Kind, Rows, is_trial_list

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
    "paths": (RECORDINGS, "a/1.wav\nb/my 1.wav\n", [("", "a/1.wav"), ("", "b/my 1.wav")]),
    "paths below a name": (RECORDINGS, "path\na/1.wav\nb/1.wav\n", [("", "a/1.wav"), ("", "b/1.wav")]),
    "paths with blanks below a name": (RECORDINGS, "path\nmy a/1.wav\n", [("", "my a/1.wav")]),
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


@pytest.mark.parametrize(
    ("there", "rows"),
    [
        (["a/1.wav"], [("my", "a/1.wav"), ("my", "a/2.wav")]),
        (["my a/1.wav"], [("", "my a/1.wav"), ("", "my a/2.wav")]),
        (["a/1.wav", "my a/1.wav"], None),
    ],
)
def test_rows__a_line_with_a_blank_is_a_path_only_where_that_exists(
    tmp_path: Path, there: list[str], rows: list | None
) -> None:
    for path in there:
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    with contextlib.nullcontext() if rows else pytest.raises(ValueError, match="line 1: 'my a/1.wav' and "):
        assert rows_of(tmp_path, RECORDINGS, "my a/1.wav\nmy a/2.wav\n")[1] == rows


TEXT = "jürg a/é.wav\n"


@pytest.mark.parametrize(
    "content",
    [
        2 * TEXT.encode("utf-8-sig"),  # joined lists, each with a byte order mark
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
    monkeypatch.setattr(list_text, "_BLOCK_CHARACTERS", 200)
    rows = list(Rows(tmp_path, "list", TRAIN))
    monkeypatch.setattr(Rows, "_columns", lambda self, text: None)
    assert rows == list(Rows(tmp_path, "list", TRAIN))
    assert len(rows) == 60 + bool(odd.strip()) and rows[-1][0] == (61 if odd.strip() or place < 60 else 60)


WRONG = {
    "no path": (TRAIN, "alone\n", "line 1: expected `speaker path`, got 'alone'"),
    "two paths": (TRAIN, "ann a/1.wav\n1 a/1.wav a/2.wav\n", "line 2: .* a blank after the suffix"),
    "path and length": (TRAIN, "a/1.wav 3.2\n", "line 1: expected `speaker path`"),
    "trials for training": (TRAIN, "a/1.wav a/2.wav target\n", "line 1: expected `speaker path`"),
    "unknown names": (TRAIN, "who,where\nann,a/1.wav\n", "'who,where' .* call the columns speaker and path"),
    "no speaker": (TRAIN, "id,file\nx,a/1.wav\n", "no column of 'id', 'file' is known as speaker"),
    "two paths in a table": (TRAIN, "file,wav,spk\nx,a/1.wav,ann\n", "'file' and 'wav' can both be the path"),
    "a short line": (TRAIN, "file,spk\na/1.wav\n", "line 2: expected `speaker path`"),
    "a key that comes late": (
        TRAIN,
        '{"wav": "a/1.wav", "spk": "ann"}\n{"wav": "a/1.wav", "spk": "ann", "offset": 3, "duration": 2}\n',
        "line 2: .*is not in the first line: give it there too",
    ),
    "a later array": (TRAIN, '{"wav": "a/1.wav", "spk": "ann"}\n["b"]\n', "line 2: .* is not a JSON object"),
    "comma and blank": (TRAIN, "ann,my a/1.wav\n", "line 1: 'ann,my a/1.wav' can be split at its comma and"),
    "broken JSON": (TRAIN, '{"wav": "a/1.wav",\n"spk": "ann"}\n', "line 1: "),
    "start of what": (TRAIN, "file,spk,start,stop\na/1.wav,ann,0,48000\n", "line 2: .* seconds or samples"),
    "no such part": (TRAIN, "wav,spk,start,stop,dur\na/1.wav,ann,0,48000,2\n", "2: .* seconds or samples"),
    "bad label": (TRIALS, "1 a/1.wav a/2.wav\n2 a/1.wav a/2.wav\n", "line 2: expected `1.0 enrolment test`"),
    "label or score": (
        TRIALS,
        "a/1.wav a/2.wav 1 0\nb/1.wav a/1.wav 0 1\n",
        "`enrolment test target` or `enrolment test score target`. Name the columns",
    ),
    "no label": (TRIALS, "enrol,test\na/1.wav,a/2.wav\n", "no column of 'enrol', 'test' is known as target"),
    "blanks": (TRIALS, "1 my a/1.wav a/2.wav\n", "line 1: .* Paths with blanks need tabs"),
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


def test_list_blocks__a_folder_that_is_no_list_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, but not a Kaldi folder .*prepare_data folder"):
        next(list_text.list_blocks(tmp_path.parent, tmp_path.name))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("ID,duration,wav,start,stop,spk_id\nx,3.0,a/1.wav,16000,64000,ann\n", "a/1.wav#t=1,4"),
        ("ID,duration,wav,start,stop,spk_id\nx,9.6,a/1.wav,48000,96000,ann\n", "a/1.wav#t=3,6"),
        ("ID,dur,path,start,stop,spk\nx,2.5,a/1.wav,1.25,3.75,ann\n", "a/1.wav#t=1.25,3.75"),
        ("file,spk,begin,end\na/1.wav,ann,0.5,2\n", "a/1.wav#t=0.5,2"),
        ('{"audio_filepath": "a/1.wav", "offset": 3, "duration": 2.5, "label": "ann"}\n', "a/1.wav#t=3,5.5"),
        ('{"audio_filepath": "a/1.wav", "offset": null, "duration": 2.5, "label": "ann"}\n', "a/1.wav"),
    ],
    ids=["SpeechBrain, samples", "its chunks", "3D-Speaker, seconds", "fractions", "NeMo", "no start"],
)
def test_rows__parts_of_recordings_are_named_by_their_seconds(tmp_path: Path, row: str, name: str) -> None:
    assert rows_of(tmp_path, TRAIN, row)[1] == [("ann", name)]
