import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.prepare_data.archives import list_zip
from sslsv.prepare_data.convert import convert, in_parallel
from sslsv.prepare_data.decode import Failure, Item, convert_batch, decode
from sslsv.prepare_data.voxceleb2 import place_of
from tests.prepare_data.corpus_server import m4a, parts_of, speech, zipped


def archive_of(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, part in parts_of(zipped(files), "vox2_dev_aac", 3).items():
        (folder / name).write_bytes(part)
    return sorted(folder.glob("vox2_dev_aac_part*"))


def items_of(paths: list[Path], kind: str) -> list[Item]:
    return [(entry, f"{place}.{kind}") for entry, place in list_zip(paths, place_of)]


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_convert__decodes_out_of_the_parts_and_lists_failures(
    ray_session: None, tmp_path: Path, kind: str
) -> None:
    files = {f"dev/aac/id0001{i}/v/0000{i}.m4a": m4a(speech(i)) for i in range(4)}
    content = dict(files)
    content["dev/aac/id00012/v/00002.m4a"] = b"no audio" * 50
    paths = archive_of(tmp_path, content)
    out = tmp_path / "voxceleb2"
    failures = convert(paths, items_of(paths, kind), out, "test")
    assert [place for place, _ in failures] == [f"id00012/v/00002.{kind}"]
    assert "can't be decoded" in failures[0][1]
    for i in (0, 1, 3):
        samples, rate = soundfile.read(out / f"id0001{i}/v/0000{i}.{kind}", dtype="int16")
        assert rate == 16_000
        assert np.array_equal(samples, decode(files[f"dev/aac/id0001{i}/v/0000{i}.m4a"]))
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        f"0000{i}.{kind}" for i in (0, 1, 3)
    ]


def test_convert__skips_what_is_there_and_makes_what_is_missing(ray_session: None, tmp_path: Path) -> None:
    paths = archive_of(tmp_path, {f"dev/aac/id0001{i}/v/1.m4a": m4a(speech(i)) for i in range(3)})
    items, out = items_of(paths, "wav"), tmp_path / "out"
    convert(paths, items, out, "test")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    (out / "id00011/v/1.wav").unlink()
    assert convert(paths, items, out, "test") == []
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    assert after.keys() == times.keys()
    assert [path.parts[-3] for path in times if times[path] != after[path]] == ["id00011"]


def test_convert__reads_files_that_are_extracted_already(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(m4a(speech(1)))
    items: list[Item] = [(str(tmp_path / "a.m4a"), "x/a.wav"), (str(tmp_path / "gone.m4a"), "x/gone.wav")]
    failures = convert([], items, tmp_path / "out", "test")
    assert [place for place, _ in failures] == ["x/gone.wav"]
    assert (tmp_path / "out/x/a.wav").exists()
    assert (tmp_path / "a.m4a").exists()


def test_convert_batch__on_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match="does not see .* must be on storage that all machines of the cluster share"
    ):
        convert_batch([], [], str(tmp_path), "witness")


@pytest.mark.slow
def test_in_parallel__finds_the_recording_that_kills_the_decoder(ray_session: None) -> None:
    def die_of_two(batch: Sequence[Item]) -> list[Failure]:
        if any(place == "2" for _, place in batch):
            os.abort()
        return []

    items: list[Item] = [("x", str(number)) for number in range(4)]
    results = list(in_parallel(die_of_two, items, 2))
    assert sorted(int(place) for batch, _ in results for _, place in batch) == list(range(4))
    failures = [failure for _, failed in results for failure in failed]
    assert [place for place, _ in failures] == ["2"]
    assert "process died" in failures[0][1]


def test_in_parallel__raises_a_sentence(ray_session: None) -> None:
    def stop_with_a_sentence(_: Sequence[Item]) -> list[Failure]:
        raise OSError("The disk is full: make room.")

    def lack_a_package(_: Sequence[Item]) -> list[Failure]:
        raise ImportError("No module named 'av'")

    with pytest.raises(OSError, match=r"^The disk is full: make room\.$"):
        list(in_parallel(stop_with_a_sentence, [("x", "1")], 1))
    with pytest.raises(
        OSError, match=r"failed \(ImportError: No module named 'av'\); every machine of the cluster"
    ):
        list(in_parallel(lack_a_package, [("x", "1")], 1))
