import os
from pathlib import Path

import pytest

from sslsv.data.list_files import (
    find_lists,
    is_trial_list,
    train_rows,
    trial_line_numbers,
    trial_rows,
    why_unlistable,
)


def test_train_rows__path_is_the_rest_of_the_line_with_its_blanks(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a my file  1.wav \r\n\nb\tplain.wav\nc 1 take 2.flac\n")
    assert list(train_rows(tmp_path, "list")) == [
        (1, "a", "my file  1.wav"),
        (3, "b", "plain.wav"),
        (4, "c", "1 take 2.flac"),
    ]


@pytest.mark.parametrize("line", ["alone", "1 a/1.wav a/2.wav", "a 1.wav 3.2", "a 1.FLAC\tx"])
def test_train_rows__more_or_less_than_a_path_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"a 1.wav\n{line}\n")
    with pytest.raises(ValueError, match="list, line 2: expected `speaker path`"):
        list(train_rows(tmp_path, "list"))


def test_trial_rows__blank_in_a_path_is_explained(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("1 a/1.wav a/my 2.wav\n")
    with pytest.raises(
        ValueError, match="line 1: expected .* 3 fields without blanks in them .* got 4 fields"
    ):
        list(trial_rows(tmp_path, "trials"))


def test_rows__bytes_that_are_no_text_come_through(tmp_path: Path) -> None:
    path = os.fsdecode(b"a/\xff.wav")
    (tmp_path / "list").write_bytes(b"a a/\xff.wav\n")
    assert list(train_rows(tmp_path, "list")) == [(1, "a", path)]


def test_trial_line_numbers__count_blank_lines_but_no_trials_in_them(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("\n1 a b\n\n\n0 a c\n1 b d\n")
    assert trial_line_numbers(tmp_path, "trials", [1, 0]) == {0: 2, 1: 5}


@pytest.mark.parametrize(
    ("text", "is_trials"),
    [
        ("\n1 a/1.wav a/2.wav\n", True),
        ("a a/1.wav\n", False),
        ("1 a/1.wav\n", False),
        ("1 my 1.wav\n", False),
    ],
)
def test_is_trial_list__is_told_by_the_first_line(tmp_path: Path, text: str, is_trials: bool) -> None:
    (tmp_path / "list").write_text(text)
    assert is_trial_list(tmp_path, "list") is is_trials


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a/my file.wav", None),
        ("a/1.wav b.wav", "blank after"),
        ("a\n.wav", "line break"),
        (" a.wav", "begins or ends"),
    ],
)
def test_why_unlistable__is_none_exactly_where_a_list_returns_the_path(
    tmp_path: Path, path: str, why: str | None
) -> None:
    reason = why_unlistable(path)
    assert reason is None if why is None else why in str(reason)
    (tmp_path / "list").write_bytes(f"a {path}\n".encode("utf-8", "surrogateescape"))
    try:
        came_back = [row[2] for row in train_rows(tmp_path, "list")] == [path]
    except ValueError:
        came_back = False
    assert came_back is (why is None)


def test_find_lists__are_those_with_the_usual_names(tmp_path: Path) -> None:
    for name in (
        "x_train_list",
        "x_train_list.checked",
        "trials",
        "x_trials",
        "x_trials.checked",
        "readme",
        "vox_test_O",
        "x_trials.csv",
    ):
        (tmp_path / name).touch()
    assert find_lists(tmp_path) == ["trials", "vox_test_O", "x_train_list", "x_trials"]


@pytest.mark.parametrize("path", ["../secret.wav", "a/../../b.wav", "a/.."])
def test_rows__paths_that_climb_out_of_the_root_are_refused(tmp_path, path):
    (tmp_path / "train").write_text(f"s1 a..b.wav\ns1 {path}\n")
    with pytest.raises(ValueError, match=r"train, line 2: the path .* has a '\.\.' in it"):
        list(train_rows(tmp_path, "train"))
    for line in (f"1 a.wav {path}", f"1 {path} a.wav"):
        (tmp_path / "trials").write_text(f"{line}\n")
        with pytest.raises(ValueError, match=r"trials, line 1: the path .* has a '\.\.' in it"):
            list(trial_rows(tmp_path, "trials"))
