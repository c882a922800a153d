import io
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sslsv.prepare_data.archives import extract, open_parts, open_zip, read_tar
from tests.prepare_data.corpus_server import parts_of, tar_gz, zipped

FILES = {f"wav/id1000{i}/v/0000{i}.wav": np.random.default_rng(i).bytes(5000 + i) for i in range(5)}


def written(folder: Path, content: bytes, count: int = 1) -> list[Path]:
    paths = []
    for name, part in parts_of(content, "archive", count).items():
        (folder / name).write_bytes(part)
        paths.append(folder / name)
    return paths


def path_of(name: str) -> str | None:
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
def test_extract__writes_the_content_and_keeps_what_is_there(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = written(tmp_path, zipped({**FILES, "wav/notes.txt": b"x"}), count)
    mine = tmp_path / "out/id10002/v/00002.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert extract(paths, path_of, tmp_path / "out", "x")
    for name, content in FILES.items():
        assert (tmp_path / "out" / path_of(name)).read_bytes() == (b"mine" if "id10002" in name else content)
    assert "5 of 5 files are there" in capsys.readouterr().out


def test_extract__names_a_damaged_file_and_writes_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = bytearray(zipped(FILES))
    paths = written(tmp_path, bytes(buffer))
    with open_zip(paths, path_of) as (_, entries):
        buffer[entries[2][0].header_offset + 200] ^= 0xFF
    paths[0].write_bytes(buffer)
    assert not extract(paths, path_of, tmp_path / "out", "x")
    assert "4 of 5 files are there; damaged in the archive: id10002/v/00002.wav" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 4


@pytest.mark.parametrize("name", ["../evil.wav", "wav/../../evil.wav", "/etc/evil.wav"])
def test_extract__refuses_links_and_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    paths = written(tmp_path, zipped({**FILES, name: b"evil"}))
    with pytest.raises(ValueError, match="it leads out of the folder"):
        extract(paths, path_of, tmp_path / "out", "x")
    link = zipfile.ZipInfo("wav/link.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(paths[0], "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="'wav/link.wav', which is refused: it is a link"):
        extract(paths, path_of, tmp_path / "out", "x")


@pytest.mark.parametrize("drop", ["last byte", "first part", "middle part"])
def test_extract__says_that_a_part_is_missing_or_cut_off(tmp_path: Path, drop: str) -> None:
    paths = written(tmp_path, zipped(FILES), 3)
    if drop == "last byte":
        paths[-1].write_bytes(paths[-1].read_bytes()[:-1])
    else:
        del paths[0 if drop == "first part" else 1]
    with pytest.raises(ValueError, match="part is missing, cut off or in the wrong order"):
        extract(paths, path_of, tmp_path / "out", "x")


@pytest.mark.parametrize("top", ["", "./"])  # `tar czf x.tar.gz .` puts the folder itself first
def test_read_tar__yields_the_files_of_the_suffix(tmp_path: Path, top: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folder = tarfile.TarInfo(top or "wav")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in {**FILES, "README": b"x"}.items():
            file = tarfile.TarInfo(top + name)
            file.size = len(content)
            archive.addfile(file, io.BytesIO(content))
    paths = written(tmp_path, buffer.getvalue(), 3)
    assert dict(read_tar(paths, ".wav")) == {top + name: content for name, content in FILES.items()}


def test_read_tar__refuses_what_is_wrong(tmp_path: Path) -> None:
    content = tar_gz(FILES)
    with pytest.raises(ValueError, match="damaged or cut off"):
        list(read_tar(written(tmp_path, content[: len(content) // 2]), ".wav"))
    with pytest.raises(ValueError, match="it leads out of the folder"):
        list(read_tar(written(tmp_path, tar_gz({"../x.wav": b"x"})), ".wav"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("musan/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match="it is a link, a device"):
        list(read_tar(written(tmp_path, buffer.getvalue()), ".wav"))
