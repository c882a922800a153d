import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.acoustics import mean_square, reverberate
from sslsv.data.audio import AudioError, read_whole
from sslsv.data.augment import AugmentConfig, Bank, augment

RNG = np.random.default_rng(0)
CROP = RNG.normal(0.0, 0.1, 32000).astype(np.float32)


@pytest.mark.parametrize("field", ["noise_snr_db", "speech_files", "gain_db"])
def test_config__reversed_range_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.augment\.{field} is \(5, 2\)"):
        AugmentConfig(**{field: (5, 2)})


def test_config__impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="probability is 1.5"):
        AugmentConfig(probability=1.5)
    with pytest.raises(ValueError, match="noise_kinds is empty"):
        AugmentConfig(noise_kinds=())
    assert AugmentConfig(noise_kinds=(), strategy="reverb").uses_rooms
    with pytest.raises(ValueError, match="at least 1"):
        AugmentConfig(speech_files=(0, 2))


def test_bank__missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"musan_split/noise does not exist.*data\.augment\.musan_dir"
    ):
        Bank(tmp_path, AugmentConfig(strategy="noise"))
    (tmp_path / "simulated_rirs").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"simulated_rirs holds no audio files.*data\.augment\.rirs_dir"
    ):
        Bank(tmp_path, AugmentConfig(strategy="reverb"))
    Bank(tmp_path, AugmentConfig(strategy="none"))


def test_bank__cache_is_bounded_and_changes_nothing(demo_corpus: Path) -> None:
    small = Bank(demo_corpus, AugmentConfig(bank_cache_mb=1))
    none = Bank(demo_corpus, AugmentConfig(bank_cache_mb=0))
    for seed in range(20):
        drawn = [bank.draw_noise(np.random.default_rng(seed), "music", 32000) for bank in (small, none)]
        assert np.array_equal(*drawn)
        wet = [bank.reverberate_randomly(np.random.default_rng(seed), CROP) for bank in (small, none)]
        assert np.array_equal(*wet)
        assert small._cached_bytes <= 2**20 and none._cached_bytes == 0
        assert small._cached_bytes == sum(value.nbytes for value, _ in small._cache.values())


def test_bank__room_equals_the_pure_function(demo_corpus: Path) -> None:
    bank = Bank(demo_corpus, AugmentConfig(strategy="reverb"))
    path = bank.files("room")[int(np.random.default_rng(4).integers(len(bank.files("room"))))]
    wet = bank.reverberate_randomly(np.random.default_rng(4), CROP)
    assert np.array_equal(wet, reverberate(CROP, read_whole(path)))


@pytest.mark.parametrize("seconds", [0.5, 3.0, 40.0])
def test_bank__noise_is_a_piece_of_its_file(tmp_path: Path, seconds: float) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, round(16000 * seconds))
    (tmp_path / "musan_split/noise").mkdir(parents=True)
    soundfile.write(tmp_path / "musan_split/noise/a.wav", noise, 16000)
    bank = Bank(tmp_path, AugmentConfig(strategy="noise", noise_kinds=("noise",)))
    starts = set()
    for seed in range(5):
        drawn = bank.draw_noise(np.random.default_rng(seed), "noise", 32000).astype(np.float64)
        start = int(np.argmax(np.correlate(np.tile(noise, 5)[: 16000 * 42], drawn[:1000])))
        piece = np.tile(noise, 7)[start : start + 32000]
        assert np.corrcoef(drawn, piece)[0, 1] > 0.99999
        starts.add(start)
    assert len(starts) == 5


def test_bank__bad_file_is_replaced_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "musan_split/noise"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_text("nothing")
    soundfile.write(folder / "b.wav", CROP, 16000)
    bank = Bank(tmp_path, AugmentConfig(strategy="noise", noise_kinds=("noise",)))
    with caplog.at_level(logging.WARNING):
        first = [bank.draw_noise(np.random.default_rng(seed), "noise", 100) for seed in range(10)]
    assert len(caplog.records) == 1 and "a.wav is not audio" in caplog.text
    assert list(bank.bad_files) == [str(folder / "a.wav")]
    # Which file had been met before does not change what is drawn.
    again = [bank.draw_noise(np.random.default_rng(seed), "noise", 100) for seed in range(10)]
    assert np.array_equal(first, again)
    (folder / "b.wav").unlink()
    with pytest.raises(AudioError, match="20 noises or rooms in a row"):
        Bank(tmp_path, bank_config()).draw_noise(np.random.default_rng(0), "noise", 100)


def bank_config() -> AugmentConfig:
    return AugmentConfig(strategy="noise", noise_kinds=("noise",))


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("none", {(False, False)}),
        ("noise", {(False, True)}),
        ("reverb", {(True, False)}),
        ("noise_or_reverb", {(False, True), (True, False)}),
        ("reverb_and_noise", {(True, True)}),
        ("any", {(False, False), (True, False), (False, True), (True, True)}),
    ],
)
def test_augment__strategy_applies_what_it_says(strategy: str, wanted: set) -> None:
    class Recorder:
        def reverberate_randomly(self, rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
            self.calls.append("room")
            return crop

        def draw_noise(self, rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
            self.calls.append("noise")
            return np.ones(count, dtype=np.float32)

    bank, seen = Recorder(), []
    for seed in range(200):
        bank.calls = []
        augment(CROP, AugmentConfig(strategy=strategy), bank, np.random.default_rng(seed))
        assert bank.calls in ([], ["room"], ["noise"], ["room", "noise"])
        seen.append(("room" in bank.calls, "noise" in bank.calls))
    assert set(seen) == wanted
    assert all(seen.count(case) > 0.5 * len(seen) / len(wanted) for case in wanted)


def test_augment__babble_has_the_ratio_of_speech(demo_corpus: Path) -> None:
    config = AugmentConfig(
        strategy="noise", noise_kinds=("speech",), speech_snr_db=(15.0, 15.0), speech_files=(3, 7)
    )
    view = augment(CROP, config, Bank(demo_corpus, config), np.random.default_rng(2))
    assert abs(10 * np.log10(mean_square(CROP) / mean_square(view - CROP)) - 15.0) < 0.01


def test_augment__probability_and_level(demo_corpus: Path) -> None:
    config = AugmentConfig(strategy="noise", probability=0.3)
    bank = Bank(demo_corpus, config)
    changed = [
        not np.array_equal(augment(CROP, config, bank, np.random.default_rng(seed)), CROP)
        for seed in range(200)
    ]
    assert 40 <= sum(changed) <= 80
    quiet = AugmentConfig(strategy="none", gain_db=(-6.0, -6.0))
    view = augment(CROP, quiet, Bank(demo_corpus, quiet), np.random.default_rng(0))
    assert np.allclose(20 * np.log10(np.abs(view).max() / np.abs(CROP).max()), -6.0, atol=1e-4)
