import functools
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import decode, read_whole, to_int16
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.archives import open_zip
from sslsv.prepare_data.convert import _convert_one, convert, map_files
from sslsv.prepare_data.corpora import voxceleb_path
from tests.codecs import write_codec
from tests.prepare_data.corpus_server import m4a, parts_of, speech, zipped


def archive_of(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, part in parts_of(zipped(files), "vox2_dev_aac", 3).items():
        (folder / name).write_bytes(part)
    return sorted(folder.glob("vox2_dev_aac_part*"))


def convert_archive(paths: list[Path], out: Path, kind: str) -> bool:
    with open_zip(paths, functools.partial(voxceleb_path, suffix=f".{kind}")) as (archive, items):
        return convert(items, out, "test", None, archive)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_convert__decodes_out_of_the_parts_and_lists_failures(
    ray_session: None, tmp_path: Path, kind: str
) -> None:
    files = {f"dev/aac/id0001{i}/v/0000{i}.m4a": m4a(speech(i)) for i in range(4)}
    content = dict(files)
    content["dev/aac/id00012/v/00002.m4a"] = b"no audio" * 50
    paths = archive_of(tmp_path, content)
    out = tmp_path / "voxceleb2"
    assert not convert_archive(paths, out, kind)
    failures = (tmp_path / "voxceleb2_failures.txt").read_text().splitlines()
    assert len(failures) == 1 and failures[0].startswith(f"id00012/v/00002.{kind}: it can't be decoded")
    for i in (0, 1, 3):
        samples, rate = soundfile.read(out / f"id0001{i}/v/0000{i}.{kind}", dtype="int16")
        assert rate == 16_000
        assert np.array_equal(samples, decode(files[f"dev/aac/id0001{i}/v/0000{i}.m4a"])[0])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert sorted(path.name for path in times) == [f"0000{i}.{kind}" for i in (0, 1, 3)]
    (out / f"id00011/v/00001.{kind}").unlink()
    assert convert_archive(archive_of(tmp_path, files), out, kind)
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    kept = [path for path in times if again[path] == times[path]]  # existing files are not converted again
    assert len(again) == 4 and sorted(path.stem for path in kept) == ["00000", "00003"]


# One file per way of reading; tests/data/test_audio.py has every codec.
@pytest.mark.parametrize("name", ["pcm24.wav", "a.flac", "a.mp3", "a.opus", "a.m4a", "mp3.wav"])
def test_convert__the_copy_has_the_samples_that_training_hears_of_the_original(
    tmp_path: Path, name: str
) -> None:
    path = write_codec(tmp_path, name, speech(1))
    assert _convert_one((str(path), tmp_path / "copy/a.wav")) == ""
    samples, rate = soundfile.read(tmp_path / "copy/a.wav", dtype="int16")
    assert rate == 16_000 and np.array_equal(samples, to_int16(read_whole(path)))


def test_convert__a_folder_names_what_is_no_audio_and_is_copied_by_name(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "My Voices", tmp_path / "copy"
    write_codec(folder / "a", "a.mp4", speech(1))
    (folder / "a/b.wav").write_text("no audio")
    (folder / "a/c.m4a").mkdir()
    (folder / "a/d.wav").symlink_to("gone.wav")
    assert main(["convert", str(folder), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "1 of 3 recordings are there" in printed and "b.wav (8 bytes) is not audio" in printed
    samples, _ = soundfile.read(out / "a/a.wav", dtype="int16")
    assert np.array_equal(samples, to_int16(read_whole(folder / "a/a.mp4")))


@pytest.mark.parametrize(("suffix", "num_bytes"), [("wav", 32_000), ("flac", 19_200)])
def test_convert__asks_for_the_room_that_the_samples_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, num_bytes: int
) -> None:
    def refuse(out: Path, size: float, what: str) -> None:
        raise OSError(round(size))

    monkeypatch.setattr("sslsv.prepare_data.convert.check_space", refuse)
    soundfile.write(tmp_path / "a.wav", np.zeros((48_000, 2)), 48_000, subtype="PCM_24")
    with pytest.raises(OSError, match=f"^{num_bytes}$"):
        convert([(str(tmp_path / "a.wav"), f"a.{suffix}")], tmp_path / "out", "test", 1)


def die_of_two(number: int) -> int:
    if number == 2:
        os._exit(9)
    return number**2


def test_map_files__a_dead_process_costs_the_file_that_kills_it(ray_session: None) -> None:
    assert dict(map_files(die_of_two, range(40))) == {i: i**2 if i != 2 else None for i in range(40)}
    assert list(map_files(die_of_two, [])) == []


def test_map_files__raises_a_sentence(ray_session: None) -> None:
    def stop_with_a_sentence(_: str) -> None:
        raise OSError("The disk is full: make room.")

    def lack_a_package(_: str) -> None:
        raise ImportError("No module named 'av'")

    with pytest.raises(OSError, match=r"^The disk is full: make room\.$"):
        list(map_files(stop_with_a_sentence, ["x"]))
    with pytest.raises(OSError, match=r"A task failed: ImportError: No module named 'av'"):
        list(map_files(lack_a_package, ["x"]))


def test_convert__requests_that_would_mix_things_up_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.wav", "1.mp3"):
        (tmp_path / "a" / name).touch()
    for out, words in (
        (f"{tmp_path}/a/copy", "choose a folder outside"),
        (f"{tmp_path}/copy", "would both become"),
        ("s3://bucket/copy", "s3://bucket/copy is not a local folder"),
    ):
        assert main(["convert", str(tmp_path / "a"), "--out", out]) == 2
        assert words in capsys.readouterr().err
