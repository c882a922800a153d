import functools
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from sslsv.data.audio import AudioError, decode, read_whole, to_int16
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.archives import open_zip
from sslsv.prepare_data.convert import _convert_one, convert, map_files
from sslsv.prepare_data.voxceleb import place_with
from tests.codecs import CODECS, write_codec
from tests.prepare_data.corpus_server import m4a, parts_of, speech, zipped


def archive_of(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, part in parts_of(zipped(files), "vox2_dev_aac", 3).items():
        (folder / name).write_bytes(part)
    return sorted(folder.glob("vox2_dev_aac_part*"))


def convert_archive(paths: list[Path], out: Path, kind: str) -> bool:
    with open_zip(paths, functools.partial(place_with, suffix=f".{kind}")) as (archive, items):
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
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        f"0000{i}.{kind}" for i in (0, 1, 3)
    ]


def test_convert__skips_what_is_there_and_makes_what_is_missing(ray_session: None, tmp_path: Path) -> None:
    paths = archive_of(tmp_path, {f"dev/aac/id0001{i}/v/1.m4a": m4a(speech(i)) for i in range(3)})
    out = tmp_path / "out"
    convert_archive(paths, out, "wav")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    (out / "id00011/v/1.wav").unlink()
    assert convert_archive(paths, out, "wav")
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    assert after.keys() == times.keys()
    assert [path.parts[-3] for path in times if times[path] != after[path]] == ["id00011"]


def test_convert__a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").mkdir()
    why = _convert_one((str(tmp_path / "a.m4a"), tmp_path / "a.wav"))
    assert why == f"{tmp_path}/a.m4a cannot be read: Is a directory."


@pytest.mark.parametrize("name", CODECS)
def test_convert__the_copy_has_the_samples_that_training_hears_of_the_original(
    tmp_path: Path, name: str
) -> None:
    path = write_codec(tmp_path, name, speech(1))
    assert _convert_one((str(path), tmp_path / "copy/a.wav")) == ""
    samples, rate = soundfile.read(tmp_path / "copy/a.wav", dtype="int16")
    assert rate == 16_000 and np.array_equal(samples, to_int16(read_whole(path)))


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


def test_convert__a_folder_of_any_formats_is_what_training_reads(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "My Voices", tmp_path / "copy"
    rng = np.random.default_rng(0)
    for name, rate, channels in (("a/1.flac", 44_100, 2), ("a/2.wav", 8000, 1), ("b/1.ogg", 16_000, 1)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, size=(rate, channels)), rate)
    (folder / "b/3.m4a").write_bytes(m4a(speech(1)))
    (folder / "b/2.wav").write_text("no audio")
    assert main(["convert", str(folder), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "4 of 5 recordings are there" in printed and re.search(
        r"b/2.wav \(\d+ bytes\) is not audio", printed
    )
    for source in ("a/1.flac", "a/2.wav", "b/1.ogg"):
        samples, rate = soundfile.read(
            out / source.replace(source[-4:], ".wav").replace("..", "."), dtype="int16"
        )
        assert rate == 16_000
        np.testing.assert_array_equal(samples, to_int16(read_whole(folder / source)))
    assert np.array_equal(soundfile.read(out / "b/3.wav", dtype="int16")[0], decode(m4a(speech(1)))[0])


def test_convert__requests_that_would_mix_things_up_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.wav", "1.mp3"):
        (tmp_path / "a" / name).touch()
    for out, words in (("a/copy", "choose a place outside"), ("copy", "would both become")):
        assert main(["convert", str(tmp_path / "a"), "--out", str(tmp_path / out)]) == 2
        assert words in capsys.readouterr().err


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    length = min(len(a), len(b))
    return float(np.corrcoef(a[:length].astype(float), b[:length].astype(float))[0, 1])


def test_decode__gives_the_samples_that_were_encoded_at_their_place() -> None:
    original = speech(1, 2.0)
    samples, rate = decode(m4a(original))
    assert rate == 16_000
    assert samples.dtype == np.int16
    # AAC codes 1024 samples at a time: the last ones are filled up; the encoder's delay is taken off.
    assert 0 <= len(samples) - len(original) <= 1024
    cut = samples[: len(original)].astype(float)
    assert np.argmax(correlate(cut, original.astype(float), mode="full")) == len(original) - 1
    assert correlation(samples, original) > 0.99
    assert np.abs(cut / 32768).max() == pytest.approx(np.abs(original).max(), rel=0.2)


def test_decode__brings_other_rates_and_channels_to_16_khz_mono() -> None:
    time = np.arange(2 * 44_100) / 44_100
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    samples, rate = decode(m4a(tone, rate=44_100, channels=2))
    assert samples.ndim == 1 and rate == 44_100
    assert len(samples) == pytest.approx(32_000, abs=1024)
    spectrum = np.abs(np.fft.rfft(samples[8_000:24_000] * np.hanning(16_000)))
    assert np.argmax(spectrum) == 440
    assert np.abs(samples[8_000:24_000]).max() / 32768 == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda x: x[: len(x) // 2],
        lambda x: b"text" * 100,
        lambda x: b"",
        lambda x: x[:2000] + bytes(800) + x[2800:],
    ],
    ids=["cut off", "no audio", "empty", "zeros inside"],
)
def test_decode__refuses_a_damaged_file(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(AudioError, match="can't be decoded|ends after|it is empty"):
        decode(damage(m4a(speech(3))))


def test_decode__of_any_wrong_byte_of_the_header_raises_nothing_but_an_audio_error() -> None:
    content = m4a(speech(3, 0.3))
    start = content.index(b"moov")
    failures = []
    for place in range(start, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            decode(bytes(damaged))
        except AudioError as error:
            failures.append(str(error))
    assert len(failures) > 30


def test_decode__refuses_a_file_that_ends_before_its_length(tmp_path: object) -> None:
    path = f"{tmp_path}/index_first.m4a"
    with av.open(path, "w", format="ipod", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(speech(4, 4.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with open(path, "rb") as file:
        content = file.read()
    assert content.index(b"moov") < content.index(b"mdat")
    assert len(decode(content)[0]) == pytest.approx(64_000, abs=1024)
    with pytest.raises(AudioError, match=r"ends after \d\.\d\d of 4\.\d\d s|can't be decoded"):
        decode(content[: len(content) * 2 // 3])


def test_decode__refuses_video_without_sound() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(picture), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(AudioError, match="it has no sound"):
        decode(buffer.getvalue())
