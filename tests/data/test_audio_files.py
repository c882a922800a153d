from pathlib import Path

import pytest

from sslsv.data.audio import find_audio_files


def test_find_audio_files__finds_by_suffix_sorted_and_skips_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "a.mp3", ".hidden.wav", ".trash/x.wav", "notes.txt", "b/wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(path).relative_to(tmp_path).as_posix() for path in find_audio_files(tmp_path)]
    assert found == ["a.mp3", "b/1.flac", "b/2.WAV"]


def test_find_audio_files__enters_linked_folders_once_and_ends_in_loops(tmp_path: Path) -> None:
    (tmp_path / "top" / "z_real").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "top" / "z_real" / "1.wav").touch()
    (tmp_path / "elsewhere" / "2.wav").touch()
    (tmp_path / "top" / "a_link").symlink_to("z_real")
    (tmp_path / "top" / "z_real" / "loop").symlink_to("..")
    (tmp_path / "top" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top" / "lost.wav").symlink_to("nowhere")
    found = [
        Path(path).relative_to(tmp_path / "top").as_posix() for path in find_audio_files(tmp_path / "top")
    ]
    assert found == ["lost.wav", "other/2.wav", "z_real/1.wav"]


def test_find_audio_files__no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_audio_files(tmp_path / "nowhere")
