import pytest

from sslsv.tasks.labels import check_lists, read_label_list

NAMES = [f"{letter}{i}.wav" for letter in "abc" for i in range(4)]


@pytest.fixture
def root(tmp_path):
    for name in [*NAMES, "with blank.wav"]:
        (tmp_path / name).touch()
    return tmp_path


def read(root, text):
    (root / "list").write_text(text)
    return read_label_list(str(root), "list")


def checked(root, train, test):
    lists = []
    for name, text in (("train", train), ("test", test)):
        (root / name).write_text(text)
        lists.append(read_label_list(str(root), name))
    check_lists(*lists)


def test_read_label_list__speakers_are_a_third_column_and_tabs_allow_blanks(root):
    found = read(root, "calm a0.wav\nloud a1.wav\n")
    assert (found.labels, found.paths, found.speakers) == (["calm", "loud"], ["a0.wav", "a1.wav"], [])
    found = read(root, "\nvery calm\twith blank.wav\tA B\nloud a1.wav B\n")
    assert (found.labels, found.speakers) == (["very calm", "loud"], ["A B", "B"])
    assert found.paths[0] == "with blank.wav" and [row.line for row in found.rows] == [2, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("calm\n", "line 1: expected `label path` or `label path speaker`"),
        ("calm a0.wav A x\n", "line 1: expected"),
        ("calm\t\tA\n", "line 1: expected"),
        ("calm ../a0.wav\n", r"line 1: the path '../a0.wav' has a '..'"),
        ("calm a0.wav A\nloud a1.wav\n", "line 2: this line lacks a speaker"),
        ("calm a0.wav\nloud a1.wav A\n", "line 2: this line names a speaker"),
        ("calm a0.wav\nloud a0.wav\n", "line 2: a0.wav is listed twice, first in line 1"),
        ("", "is empty"),
    ],
)
def test_read_label_list__a_bad_list_gives_its_sentence(root, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(root, text)


GOOD = "x a0.wav\nx a1.wav\ny b0.wav\ny b1.wav\n"


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ("x a0.wav\nx a1.wav\n", "x b0.wav\n", r"has 1 label\(s\) \(x\)"),
        ("x a0.wav\nx a1.wav\ny b0.wav\n", "x c0.wav\n", "1 of the 2 labels .* a single recording: y"),
        (
            "x a0.wav A\nx a1.wav A\ny b0.wav B\ny b1.wav C\n",
            "x c0.wav\n",
            "a single speaker: x.*two speakers",
        ),
        (GOOD, "x c0.wav\nz c1.wav\nw c2.wav\n", r"2 recordings .* has not: w, z; first: c1.wav \(line 2\)"),
        (GOOD, "x c0.wav\nx a1.wav\n", r"1 recordings of .* too: a1.wav \(line 2\)"),
    ],
)
def test_check_lists__says_what_keeps_a_probe_from_learning(root, train, test, sentence):
    with pytest.raises(ValueError, match=sentence):
        checked(root, train, test)


def test_check_lists__labels_that_are_not_tested_are_no_fault(root):
    checked(root, GOOD, "x c0.wav\n")
