from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.prepare_data import inspection
from sslsv.prepare_data.inspection import FLOOR_DB, inspect
from sslsv.prepare_data.measurements import SCHEMA


def sine(seconds: float, level: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def test_inspect__measures_known_signals(tmp_path: Path) -> None:
    signal = np.concatenate([sine(1.5), np.zeros(8000)]) + 0.25
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="PCM_24")
    row = inspect(str(tmp_path / "a.wav"))
    assert set(row) == set(SCHEMA.names) - {"error"}
    assert (row["seconds"], row["sample_rate"], row["channels"]) == (2.0, 16_000, 1)
    assert row["encoding"] == "WAV PCM_24"
    assert row["silent_share"] == 0.25  # a constant is silence
    assert row["dc_offset"] == pytest.approx(0.25, abs=1e-6)
    assert row["peak_db"] == pytest.approx(20 * np.log10(0.75), abs=1e-3)
    assert row["level_db"] == pytest.approx(10 * np.log10(0.75 * 0.125 + 0.25**2), abs=1e-3)
    assert row["clipped_share"] == 0.0


def test_inspect__clipped_samples_are_counted(tmp_path: Path) -> None:
    signal = np.zeros(1000)
    signal[:100], signal[100:150], signal[150:200] = 1.0, -1.0, 0.9999
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="PCM_16")
    assert inspect(str(tmp_path / "a.wav"))["clipped_share"] == pytest.approx(0.15)
    soundfile.write(tmp_path / "b.wav", np.zeros(1000), 16_000)
    silence = inspect(str(tmp_path / "b.wav"))
    assert silence["peak_db"] == silence["level_db"] == FLOOR_DB and silence["silent_share"] == 1.0


def test_inspect__digest_is_the_samples_whatever_the_format(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, size=16_000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    soundfile.write(tmp_path / "b.flac", samples, 16_000)
    soundfile.write(tmp_path / "c.wav", samples / 32768, 16_000, subtype="FLOAT")
    samples[500] += 1
    soundfile.write(tmp_path / "d.wav", samples, 16_000)
    digests = [inspect(str(tmp_path / name))["digest"] for name in ("a.wav", "b.flac", "c.wav", "d.wav")]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_inspect__result_does_not_depend_on_how_much_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stereo = np.stack([sine(2.3, 0.4, 44_100), sine(2.3, 0.0, 44_100)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    whole = inspect(str(tmp_path / "a.wav"))
    monkeypatch.setattr(inspection, "_BLOCK", 320 * 7)
    parts = inspect(str(tmp_path / "a.wav"))
    assert whole["channels"] == 2 and whole["sample_rate"] == 44_100
    assert whole["digest"] == parts["digest"] and whole["silent_share"] == parts["silent_share"]
    assert whole["level_db"] == pytest.approx(parts["level_db"], abs=1e-9)


def test_inspect__unreadable_file_is_a_row_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    row = inspect(str(tmp_path / "a.wav"))
    assert "not audio" in row["error"] and row["size"] == 8 and "digest" not in row
    soundfile.write(tmp_path / "c.wav", sine(1.0), 16_000, subtype="PCM_16")
    (tmp_path / "c.wav").write_bytes((tmp_path / "c.wav").read_bytes()[:-100])
    assert "cut off: 100 bytes are missing" in inspect(str(tmp_path / "c.wav"))["error"]
    missing = inspect(str(tmp_path / "b.wav"))
    assert "does not exist" in missing["error"] and missing["size"] == -1
