import io
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sslsv.prepare_data.archives import ArchiveError, list_zip, open_parts, read_entry, read_tar
from sslsv.prepare_data.extract import extract
from tests.prepare_data.corpus_server import parts_of, tar_gz, zipped

FILES = {f"wav/id1000{i}/v/0000{i}.wav": np.random.default_rng(i).bytes(5000 + i) for i in range(5)}


def written(folder: Path, content: bytes, count: int = 1) -> list[Path]:
    paths = []
    for name, part in parts_of(content, "archive", count).items():
        (folder / name).write_bytes(part)
        paths.append(folder / name)
    return paths


def place_of(name: str) -> str | None:
    return name.removeprefix("wav/") if name.endswith(".wav") else None


def test_open_parts__reads_and_seeks_over_the_joints(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(10_000)
    with open_parts(written(tmp_path, content, 7)) as joined:
        assert joined.read() == content
        for start in (0, 1428, 1429, 9_000, 9_999, 10_000):
            joined.seek(start)
            assert joined.read(3000) == content[start : start + 3000]
        joined.seek(-10, 2)
        assert joined.read() == content[-10:]


@pytest.mark.parametrize("count", [1, 4])
def test_extract__writes_the_content_and_skips_what_is_complete(tmp_path: Path, count: int) -> None:
    paths = written(tmp_path, zipped({**FILES, "wav/notes.txt": b"x"}), count)
    entries = list_zip(paths, place_of)
    result = extract(paths, entries, tmp_path / "out", "x")
    assert (result.num_written, result.num_kept, result.is_complete) == (5, 0, True)
    for name, content in FILES.items():
        assert (tmp_path / "out" / name.removeprefix("wav/")).read_bytes() == content
    (tmp_path / "out/id10003/v/00003.wav").unlink()
    again = extract(paths, entries, tmp_path / "out", "x")
    assert (again.num_written, again.num_kept) == (1, 4)


def test_extract__never_replaces_a_file_of_other_content(tmp_path: Path) -> None:
    paths = written(tmp_path, zipped(FILES))
    mine = tmp_path / "out/id10002/v/00002.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    result = extract(paths, list_zip(paths, place_of), tmp_path / "out", "x")
    assert mine.read_bytes() == b"mine"
    assert not result.is_complete
    assert "1 differ from files of the same name that are there" in result.describe()


def test_extract__names_a_damaged_file_and_writes_the_others(tmp_path: Path) -> None:
    buffer = bytearray(zipped(FILES))
    (paths,) = [written(tmp_path, bytes(buffer))]
    entry = list_zip(paths, place_of)[2][0]
    buffer[entry.offset + 200] ^= 0xFF
    paths[0].write_bytes(buffer)
    result = extract(paths, list_zip(paths, place_of), tmp_path / "out", "x")
    assert result.damaged == ["id10002/v/00002.wav"]
    assert result.num_written == 4
    assert not list((tmp_path / "out").rglob("*00002*"))
    with open_parts(paths) as archive, pytest.raises(ArchiveError, match="checksum differs"):
        read_entry(archive, entry)


def test_extract__refuses_what_the_disk_cannot_hold(tmp_path: Path) -> None:
    paths = written(tmp_path, zipped(FILES))
    entries = list_zip(paths, place_of)
    huge = [
        (type(entry)(entry.offset, entry.compressed_size, 2**50, entry.crc, 8), place)
        for entry, place in entries
    ]
    with pytest.raises(OSError, match=r"Extracting x needs 5.63e\+03 TB, but the disk of .* free: make room"):
        extract(paths, huge, tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["../evil.wav", "wav/../../evil.wav", "/etc/evil.wav", "wav\\..\\evil.wav", "C:/evil.wav"]
)
def test_list_zip__refuses_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    paths = written(tmp_path, zipped({**FILES, name: b"evil"}))
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        list_zip(paths, place_of)


def test_list_zip__refuses_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("wav/link.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"a link or an encrypted file \(wav/link.wav\)"):
        list_zip(written(tmp_path, buffer.getvalue()), place_of)


def test_archives__that_grow_beyond_belief_are_refused(tmp_path: Path) -> None:
    bomb = {"wav/zeros.wav": bytes(70 * 2**20)}
    with pytest.raises(ArchiveError, match="no speech packs like that"):
        list_zip(written(tmp_path, zipped(bomb)), place_of)
    with pytest.raises(ArchiveError, match="no speech packs like that"):
        list(read_tar(written(tmp_path, tar_gz(bomb)), ".wav"))


@pytest.mark.parametrize("drop", ["last byte", "first part", "middle part"])
def test_list_zip__says_that_a_part_is_missing_or_cut_off(tmp_path: Path, drop: str) -> None:
    paths = written(tmp_path, zipped(FILES), 3)
    if drop == "last byte":
        paths[-1].write_bytes(paths[-1].read_bytes()[:-1])
    else:
        del paths[0 if drop == "first part" else 1]
    with pytest.raises(ArchiveError, match="part is missing, cut off or in the wrong order"):
        list_zip(paths, place_of)


def test_read_tar__yields_files_of_the_suffix_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    content = tar_gz({**FILES, "README": b"x"})
    assert dict(read_tar(written(tmp_path, content, 3), ".wav")) == FILES
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        list(read_tar(written(tmp_path, content[: len(content) // 2]), ".wav"))
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        list(read_tar(written(tmp_path, tar_gz({"../x.wav": b"x"})), ".wav"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("musan/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ArchiveError, match="a link or a device"):
        list(read_tar(written(tmp_path, buffer.getvalue()), ".wav"))
