import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import open_audio
from sslsv.prepare_data.disk import check_space, sample_bytes, sentence_of, write_list, write_whole


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Make writes of this process fail if a file would exceed a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_whole__leaves_nothing_behind_when_the_disk_is_full(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(OSError, match="File too large") as caught:
        write_whole(tmp_path / "x", bytes(2000))
    assert os.listdir(tmp_path) == []
    assert sentence_of(caught.value).endswith("make room, and the same command goes on.")


def test_write_whole__keeps_the_old_content_when_it_fails(tmp_path: Path) -> None:
    write_whole(tmp_path / "a/x", b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a/x", "no bytes")  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a").iterdir()] == [("x", b"old")]


def test_write_list__keeps_every_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in "aabc":
        write_list(tmp_path / "list", [text])
    states = [line.removeprefix(f"{tmp_path / 'list'} ") for line in capsys.readouterr().out.splitlines()]
    assert states == [
        "is written (1 lines).",
        "is unchanged (1 lines).",
        "is written (1 lines); the old list is kept as list.old.",
        "is written (1 lines); the old list is kept as list.old2.",
    ]
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"list": "c\n", "list.old": "a\n", "list.old2": "b\n"}


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(48000, 2, "PCM_24"), (8000, 1, "PCM_U8")])
def test_sample_bytes__are_those_of_the_copy_however_large_the_files(
    tmp_path: Path, rate: int, channels: int, subtype: str
) -> None:
    for i in range(20):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros((rate, channels)), rate, subtype=subtype)
    (tmp_path / "0.wav").write_text("no audio")
    sizes = {str(file): file.stat().st_size for file in tmp_path.iterdir()}
    assert sample_bytes(sizes, open_audio) == pytest.approx(19 * 32_000, rel=0.01)
    assert sample_bytes({str(tmp_path / "0.wav"): 8}, open_audio) == 8 and sample_bytes({}, open_audio) == 0


def test_check_space__says_how_much_is_needed_and_free(tmp_path: Path) -> None:
    check_space(tmp_path / "not/yet/there", 1e3, "A small thing")
    with pytest.raises(
        OSError, match=r"A large thing needs 1.00EB, but the disk of .* has .* free: make room"
    ):
        check_space(tmp_path, 1e18, "A large thing")
