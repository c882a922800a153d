import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from sslsv.data.audio import AudioError
from sslsv.prepare_data.decode import Item, convert_batch, decode, duration_seconds
from tests.prepare_data.corpus_server import m4a, speech, wav


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    length = min(len(a), len(b))
    return float(np.corrcoef(a[:length].astype(float), b[:length].astype(float))[0, 1])


def test_decode__gives_the_samples_that_were_encoded_at_their_place() -> None:
    original = speech(1, 2.0)
    samples = decode(m4a(original))
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
    samples = decode(m4a(tone, rate=44_100, channels=2))
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(32_000, abs=1024)
    spectrum = np.abs(np.fft.rfft(samples[8_000:24_000] * np.hanning(16_000)))
    assert np.argmax(spectrum) == 440
    assert np.abs(samples[8_000:24_000]).max() / 32768 == pytest.approx(0.3, rel=0.1)


def test_decode__of_lossless_audio_is_exact() -> None:
    original = speech(2)
    stored, _ = soundfile.read(io.BytesIO(wav(original)), dtype="int16")
    assert np.array_equal(decode(wav(original)), stored)


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
def test_decode__refuses_a_damaged_file(damage: object) -> None:
    content = damage(m4a(speech(3)))  # type: ignore[operator]
    with pytest.raises(AudioError, match="can't be decoded|ends after"):
        decode(content)


def test_decode__of_any_wrong_byte_of_the_header_raises_nothing_but_an_audio_error() -> None:
    content = m4a(speech(3, 0.3))
    start = content.index(b"moov")
    failures = []
    for place in range(start, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            decode(bytes(damaged))
        except AudioError as error:
            failures.append(str(error))
        duration_seconds(bytes(damaged))
    assert len(failures) > 100 and any("its codec is unknown" in failure for failure in failures)


def test_convert_batch__lists_a_source_that_cannot_be_read_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "witness"):
        (tmp_path / name).write_bytes(m4a(speech(1, 0.3)))
    real = Path.read_bytes

    def broken_disk(path: Path) -> bytes:
        if path.name == "a":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", broken_disk)
    items: list[Item] = [(str(tmp_path / name), f"{name}.wav") for name in ("a", "b")]
    assert convert_batch([], items, str(tmp_path), "witness") == [
        ("a.wav", "it can't be read (Input/output error)")
    ]
    assert (tmp_path / "b.wav").exists()


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
    assert len(decode(content)) == pytest.approx(64_000, abs=1024)
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


def test_duration_seconds__is_that_of_the_header_or_zero() -> None:
    assert duration_seconds(m4a(speech(5, 3.0))) == pytest.approx(3.0, abs=0.15)
    assert duration_seconds(b"text") == 0.0
