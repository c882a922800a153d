"""Finding and naming audio files."""

import os
from pathlib import Path

import pytest

from sslsv.data.audio_files import find_audio_files, unlistable_reason
from sslsv.data.list_forms import TRAIN
from tests.data.test_list_forms import rows_of


def test_find_audio_files__finds_by_suffix_sorted_and_skips_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "a.mp3", ".hidden.wav", ".trash/x.wav", "notes.txt", "b/wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_audio_files(tmp_path)
    assert found == [str(tmp_path / name) for name in ("a.mp3", "b/1.flac", "b/2.WAV")]
    assert others == "2 files are left out: they lack the suffix of an audio file (b/wav, notes.txt)\n"
    assert not find_audio_files(tmp_path / ".trash")[1]


def test_find_audio_files__enters_linked_folders_once_and_ends_in_loops(tmp_path: Path) -> None:
    (tmp_path / "top" / "z_real").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "top" / "z_real" / "1.wav").touch()
    (tmp_path / "elsewhere" / "2.wav").touch()
    (tmp_path / "top" / "a_link").symlink_to("z_real")
    (tmp_path / "top" / "z_real" / "loop").symlink_to("..")
    (tmp_path / "top" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top" / "lost.wav").symlink_to("nowhere")
    found, _ = find_audio_files(tmp_path / "top")
    assert found == [str(tmp_path / "top" / name) for name in ("a_link/1.wav", "lost.wav", "other/2.wav")]


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
    reason = unlistable_reason(path)
    assert reason is None if why is None else why in str(reason)
    try:
        came_back = rows_of(tmp_path, TRAIN, os.fsencode(f"a {path}\n"))[1] == [("a", path)]
    except ValueError:
        came_back = False
    assert came_back is (why is None)
