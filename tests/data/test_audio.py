import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError, decode, open_audio, read_whole, to_int16
from tests.codecs import CODECS, WHOLE, speech, write_codec


def tone(frequency_hz: float, rate: int, seconds: float = 1.5, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate * seconds)) / rate)


def measure_tone(waveform: np.ndarray) -> tuple[float, float]:
    # Returns frequency and amplitude of the strongest bin of a windowed spectrum, away from the edges.
    middle = waveform[2000:-2000].astype(np.float64)
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window))
    return int(np.argmax(spectrum)) * 16000 / len(middle), float(np.sqrt(2 * np.mean(middle**2)))


@pytest.mark.parametrize("rate", [11025, 16000, 48000])
def test_read__tone_keeps_frequency_and_level_at_any_rate(tmp_path: Path, rate: int) -> None:
    high = tone(9500, rate, level=0.3) * (rate > 19000)  # above the Nyquist frequency of 16 kHz audio
    stereo = np.stack([tone(1000, rate, level=0.6) + high, tone(1000, rate, level=0.4)], axis=1)  # averaged
    soundfile.write(tmp_path / "a.wav", stereo, rate, subtype="PCM_16")
    waveform = read_whole(tmp_path / "a.wav")
    assert waveform.dtype == np.float32 and len(waveform) in (24000, 24001)
    frequency_hz, level = measure_tone(waveform)
    assert abs(frequency_hz - 1000) < 1.0
    assert abs(20 * np.log10(level / 0.5)) < 0.01


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_read_int16__crop_equals_the_crop_of_the_whole_bit_for_bit(
    tmp_path: Path, rate: int, subtype: str
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=(rate, 2))
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype=subtype)
    with open_audio(tmp_path / "a.wav") as file:
        whole = file.read_int16(0, file.num_samples)
        assert whole.dtype == np.int16
        for start, count in [(0, 1000), (1, 160), (5003, 4001), (file.num_samples - 777, 777)]:
            assert np.array_equal(file.read_int16(start, count), whole[start : start + count])


@pytest.mark.parametrize("name", CODECS)
def test_read_int16__of_any_codec_a_crop_has_the_samples_of_the_whole(tmp_path: Path, name: str) -> None:
    path = write_codec(tmp_path, name, speech())
    with open_audio(path) as file:
        whole = file.read_int16(0, file.num_samples).astype(int)
        assert file.is_slow == (name in WHOLE or name == "a.opus")
        for start in (1, 5003, 17001, 28000):
            crop = file.read_int16(start, 3000)
            # The mp3 decoder sums floats in another order. Without a lead-in, the first samples would differ.
            assert np.abs(crop - whole[start : start + 3000]).max() <= (1 if name.endswith(".mp3") else 0)


@pytest.mark.parametrize(
    ("rate", "length"), [(8000, 53000), (16000, 96777), (16000, 300777), (44100, 133077)]
)
def test_read_int16__a_crop_near_the_end_of_ogg_vorbis_lies_at_its_place(
    tmp_path: Path, rate: int, length: int
) -> None:
    time = np.arange(length) / rate
    noise = np.random.default_rng(0).normal(size=length)
    glide = 0.3 * np.sin(2 * np.pi * (300 + 50 * time) * time) + 0.02 * noise
    soundfile.write(tmp_path / "a.ogg", glide, rate, format="OGG", subtype="VORBIS")
    with open_audio(tmp_path / "a.ogg") as file:
        whole = file.read_int16(0, file.num_samples)
        for start in range(file.num_samples - 6000, file.num_samples - 400, 700):
            assert np.array_equal(file.read_int16(start, 400), whole[start : start + 400])


def test_open_audio__an_mp3_tells_its_length_behind_a_tag_with_pictures(tmp_path: Path) -> None:
    path = write_codec(tmp_path, "a.mp3", speech())
    with open_audio(path) as file:
        num_samples = file.num_samples
    path.write_bytes(b"ID3\4\0\0" + bytes([0, 1, 2, 3]) + bytes((1 << 14) + (2 << 7) + 3) + path.read_bytes())
    with open_audio(path) as file:
        assert (file.num_samples, file.is_slow) == (num_samples, False)


@pytest.mark.parametrize("name", CODECS)
def test_read_whole__of_any_codec_gives_what_was_written_at_its_place(tmp_path: Path, name: str) -> None:
    written = speech()
    found = read_whole(write_codec(tmp_path, name, written))
    # Encoder delays: these formats cannot store the delay, and FFmpeg's wma drops a frame.
    late = {"a.aac": 1024, "mp3.wav": 1105, "piped.mp3": 1105}.get(name, 0)
    early = {"a.wma": 512}.get(name, 0)
    assert abs(len(found) - len(written)) <= 2048
    if name in ("a.amr", "a.3gp"):  # this codec preserves the spectrum, not the waveform
        assert np.std(found) == pytest.approx(np.std(written), rel=0.3)
        return
    found, written = found[late:], written[early:]
    length = min(len(written), len(found))
    least = 0.96 if name == "gsm.wav" else 0.97  # GSM has 13 kbit/s
    assert np.corrcoef(found[:length], written[:length])[0, 1] > least


def test_open_audio__a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_codec(tmp_path, "a.aac", speech())
    for name, text in {
        "hls.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "concat.mka": "ffconcat version 1.0\nfile '{}'\n",
    }.items():
        (tmp_path / name).write_text(text.format(tmp_path / "a.aac"))
        with pytest.raises(AudioError, match=f"{name} .* cannot be read: it can't be decoded"):
            open_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.webm", "a.wma", "alac.m4a"])
def test_open_audio__a_compressed_file_that_ends_early_is_no_shorter_one(tmp_path: Path, name: str) -> None:
    path = write_codec(tmp_path, name, speech(6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=f"{name} .* cannot be read: it (can't be decoded|ends after)"):
        open_audio(path)


def test_open_audio__channels_of_compressed_files_are_averaged_and_one_without_sound_is_named(
    tmp_path: Path,
) -> None:
    def write(name: str, codec: str, frame: av.AudioFrame | av.VideoFrame, **options: object) -> Path:
        with av.open(tmp_path / name, "w") as container:
            stream = container.add_stream(codec, **options)
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        return tmp_path / name

    channels = np.stack([tone(500, 44100, level=x) for x in (0.9, 0.5, 0.2, 0, 0.6, 0.2)]).astype(np.float32)
    sound = av.AudioFrame.from_ndarray(channels, format="fltp", layout="5.1")
    sound.sample_rate, sound.pts = 44100, 0
    waveform = read_whole(write("a.m4a", "aac", sound, rate=44100, layout="5.1"))
    assert measure_tone(waveform) == (pytest.approx(500, abs=1), pytest.approx(0.4, rel=0.02))
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
    path = write("b.mp4", "mpeg4", picture, rate=25, width=16, height=16, pix_fmt="yuv420p")
    with pytest.raises(AudioError, match="b.mp4 .* it has no sound"):
        open_audio(path)


def test_open_audio__sound_that_ends_before_the_picture_is_not_cut_off(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mkv", "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        picture = container.add_stream("mpeg4", rate=25, width=16, height=16, pix_fmt="yuv420p")
        frames: list[av.AudioFrame | av.VideoFrame] = [
            av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24") for _ in range(25)
        ]
        half = av.AudioFrame.from_ndarray(speech(0.5)[None], format="fltp", layout="mono")
        half.sample_rate, half.pts = 16000, 0
        for stream, each in ((picture, frames), (sound, [half])):
            for frame in (*each, None):
                container.mux(stream.encode(frame))
    assert len(read_whole(tmp_path / "a.mkv")) == pytest.approx(8000, abs=2048)


def test_open_audio__of_any_wrong_byte_of_a_header_raises_nothing_but_an_audio_error(tmp_path: Path) -> None:
    content = write_codec(tmp_path, "a.m4a", speech(0.3)).read_bytes()
    failures = 0
    for offset in range(content.index(b"moov"), len(content), 3):
        damaged = bytearray(content)
        damaged[offset] ^= 0xFF
        try:
            decode(bytes(damaged))
        except AudioError:
            failures += 1
    assert failures > 30


def test_read_int16__float_above_full_scale_is_cut_or_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.5, -1.5, 0.0]), 16000, subtype="FLOAT")
    with open_audio(tmp_path / "a.wav") as file:
        assert file.read_int16(0, 4).tolist() == [16384, 32767, -32768, 0]
    soundfile.write(tmp_path / "b.wav", np.array([0.0, 3000.0]), 16000, subtype="FLOAT")
    with (
        open_audio(tmp_path / "b.wav") as file,
        pytest.raises(AudioError, match="full scale is 1.*16-bit PCM"),
    ):
        file.read_int16(0, 2)


def test_read_rir__any_level_of_floats_uses_all_bits(tmp_path: Path) -> None:
    rir = np.array([0.0, 4000.0, -1000.0, 0.1])
    soundfile.write(tmp_path / "a.wav", rir, 16000, subtype="FLOAT")
    with open_audio(tmp_path / "a.wav") as file:
        found = file.read_rir()
    assert np.abs(found).max() >= 32766 and np.allclose(found / 32767, rir / 4000, atol=1e-4)
    soundfile.write(tmp_path / "b.wav", np.array([5, -700], dtype=np.int16), 16000)
    with open_audio(tmp_path / "b.wav") as file:
        assert file.read_rir().tolist() == [5, -700]
    soundfile.write(tmp_path / "c.wav", np.zeros(900), 16000, subtype="FLOAT")
    with open_audio(tmp_path / "c.wav") as file, pytest.raises(AudioError, match="c.wav is silent"):
        file.read_rir()


def test_read__short_file_is_repeated(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(300, 16000, seconds=0.1), 16000)
    with open_audio(tmp_path / "a.wav") as file:
        crop = file.read_int16(0, 4000)
    assert np.array_equal(crop[1600:3200], crop[:1600]) and np.array_equal(crop[3200:], crop[:800])


def bad_file(folder: Path, kind: str) -> Path:
    path, samples = folder / "bad.wav", tone(300, 16000, seconds=3.0)
    if kind in ("not finite", "absurd"):
        samples[30000] = np.nan if kind == "not finite" else 1e30
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "truncated":
        soundfile.write(folder / "a.flac", np.random.default_rng(0).uniform(-1, 1, 48000), 16000)
        path.write_bytes((folder / "a.flac").read_bytes()[:20000])
    elif kind.startswith("cut off"):
        soundfile.write(path, samples, 16000, format="NIST" if kind.endswith("SPH") else "WAV")
        path.write_bytes(path.read_bytes()[:30000])
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16000)
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "<html>404 not found</html>\n" * 50)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "is not audio"),
        ("empty", r"\(0 bytes\) is not audio"),
        ("no samples", "no samples"),
        ("not finite", "values up to nan"),
        ("absurd", "damaged"),
        ("truncated", "truncated|cannot be decoded"),
        ("cut off", "is cut off: 66044 bytes are missing"),
        ("cut off SPH", "is cut off: 67024 bytes are missing"),
        ("missing", "does not exist"),
    ],
)
def test_read__bad_file_is_named_with_its_cause(tmp_path: Path, kind: str, words: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(AudioError, match=words) as caught:
        read_whole(path)
    assert str(path) in str(caught.value)


def test_to_int16__too_loud_is_scaled_not_clipped() -> None:
    loud = np.array([0.5, -2.0, 1.0], dtype=np.float32)
    assert to_int16(loud).tolist() == [8192, -32767, 16384]


SAMPLES = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)


def riff(*chunks: tuple[bytes, bytes], data_size: int | None = None) -> bytes:
    body = b""
    for name, content in chunks:
        size = data_size if name == b"data" and data_size is not None else len(content)
        body += name + struct.pack("<I", size) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def fmt_chunk(tag: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> tuple[bytes, bytes]:
    block = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)


DATA, CHUNK = (b"data", SAMPLES.tobytes()), (b"LIST", b"INFOISFT\x05\0\0\0Lavf\0")
WAV_FILES = {  # file -> whether its samples can be memory-mapped
    "bare": (riff(fmt_chunk(), DATA), True),
    "list before": (riff(fmt_chunk(), CHUNK, DATA), True),
    "odd chunk before": (riff((b"junk", b"abc"), fmt_chunk(), DATA), True),
    "chunk after": (riff(fmt_chunk(), DATA, CHUNK), True),
    "longer form": (riff((b"fmt ", fmt_chunk()[1] + b"\0\0"), DATA), True),
    "other rate": (riff(fmt_chunk(rate=8000), DATA), False),
    "stereo": (riff(fmt_chunk(channels=2), DATA), False),
    "unknown length": (riff(fmt_chunk(), DATA, data_size=0xFFFFFFFF), False),
    "far away": (riff(fmt_chunk(), (b"junk", bytes(8000)), DATA), False),
}


@pytest.mark.parametrize(("content", "is_plain"), WAV_FILES.values(), ids=WAV_FILES)
def test_open_audio__plain_wav_files_are_mapped_and_read_as_by_libsndfile(
    tmp_path: Path, content: bytes, is_plain: bool
) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with open_audio(tmp_path / "a.wav") as file:
        assert (mapped := file.mapped()) is not None if is_plain else file.mapped() is None
        if is_plain:
            expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
            assert np.array_equal(mapped, expected) and len(expected) == len(SAMPLES)
            assert np.array_equal(file.read_int16(77, 4000), expected[77:4077])
            (tmp_path / "a.wav").write_bytes(content[:100])
            with pytest.raises(AudioError, match="a.wav became shorter"):
                file.read_int16(0, 5000)
