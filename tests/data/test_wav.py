import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import PlainWav

SAMPLES = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)


def riff(*chunks: tuple[bytes, bytes], data_size: int | None = None) -> bytes:
    body = b""
    for name, content in chunks:
        size = data_size if name == b"data" and data_size is not None else len(content)
        body += name + struct.pack("<I", size) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def form(tag: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> tuple[bytes, bytes]:
    block = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)


DATA = (b"data", SAMPLES.tobytes())
PLAIN = {
    "bare": riff(form(), DATA),
    "list before": riff(form(), (b"LIST", b"INFOISFT\x05\0\0\0Lavf\0"), DATA),
    "odd chunk before": riff((b"junk", b"abc"), form(), DATA),
    "chunk after": riff(form(), DATA, (b"LIST", b"INFO")),
    "longer form": riff((b"fmt ", form()[1] + b"\0\0"), DATA),
}
OTHERS = {
    "other rate": riff(form(rate=8000), DATA),
    "stereo": riff(form(channels=2), DATA),
    "24 bits": riff(form(bits=24), DATA),
    "float": riff(form(tag=3), DATA),
    "unknown length": riff(form(), DATA, data_size=0xFFFFFFFF),
    "no length": riff(form(), DATA, data_size=0),
    "no form": riff(DATA),
    "form after": riff(DATA, form()),
    "far away": riff(form(), (b"junk", bytes(8000)), DATA),
    "big endian": b"RIFX" + riff(form(), DATA)[4:],
    "no samples": riff(form(), DATA)[:44],
    "cut short": riff(form(), DATA)[:-1001],
    "header cut": riff(form(), DATA)[:30],
    "nothing": b"",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_open__plain_files_are_read_as_libsndfile_does(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN[kind])
    wanted, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    file = PlainWav.open(str(tmp_path / "a.wav"))
    assert rate == 16000 and file is not None and file.num_samples == len(wanted) > 4000
    assert np.array_equal(file.read(0, file.num_samples), wanted)
    assert np.array_equal(file.read(77, 4000), wanted[77:4077])
    mapped = file.mapped()
    file.close()
    assert np.array_equal(mapped, wanted)


@pytest.mark.parametrize("kind", OTHERS)
def test_open__anything_else_is_left_to_libsndfile(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.wav").write_bytes(OTHERS[kind])
    assert PlainWav.open(str(tmp_path / "a.wav")) is None


def test_open__a_folder_or_nothing_is_no_wav(tmp_path: Path) -> None:
    assert PlainWav.open(str(tmp_path)) is None and PlainWav.open(str(tmp_path / "none.wav")) is None


def test_read__a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN["bare"])
    file = PlainWav.open(str(tmp_path / "a.wav"))
    assert file is not None
    (tmp_path / "a.wav").write_bytes(PLAIN["bare"][:100])
    with pytest.raises(OSError, match="shorter"):
        file.read(0, 5000)
    file.close()
