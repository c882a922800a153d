import numpy as np

from sslsv.data.audio import SAMPLE_RATE
from sslsv.prepare_data.trimming import KEPT_SECONDS, trim_silence


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 200 * times)).astype(np.float32)


def test_trim_silence__pauses_are_cut_and_speech_stays_with_its_surroundings() -> None:
    pause = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
    waveform = np.concatenate([pause, tone(1.0), pause, tone(0.5, level=0.05), pause])
    trimmed = trim_silence(waveform)
    assert len(trimmed) == round((1.5 + 4 * KEPT_SECONDS) * SAMPLE_RATE)
    kept = round(KEPT_SECONDS * SAMPLE_RATE)
    np.testing.assert_array_equal(trimmed[kept : kept + SAMPLE_RATE], tone(1.0))
    np.testing.assert_array_equal(trimmed[-kept - SAMPLE_RATE // 2 : -kept], tone(0.5, level=0.05))


def test_trim_silence__speech_without_pauses_is_returned_whole() -> None:
    waveform = tone(1.2345)
    np.testing.assert_array_equal(trim_silence(waveform), waveform)


def test_trim_silence__nothing_is_left_of_silence_or_a_constant() -> None:
    assert len(trim_silence(np.zeros(SAMPLE_RATE, dtype=np.float32))) == 0
    assert len(trim_silence(np.full(SAMPLE_RATE, 0.25, dtype=np.float32))) == 0
    assert len(trim_silence(np.zeros(0, dtype=np.float32))) == 0
