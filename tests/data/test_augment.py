import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError, read_whole
from sslsv.data.augment import (
    AugmentConfig,
    Bank,
    add_noise,
    augment,
    mean_square,
    reverberate,
    shift_channel,
)

RNG = np.random.default_rng(0)
CROP = RNG.normal(0.0, 0.1, 32000).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 13.0, 40.0])
def test_add_noise__measured_ratio_is_the_one_asked_for(snr_db: float) -> None:
    noise = RNG.uniform(-1.0, 1.0, 32000).astype(np.float32)
    added = add_noise(CROP, noise, snr_db) - CROP
    assert abs(10 * np.log10(mean_square(CROP) / mean_square(added)) - snr_db) < 0.01


def test_add_noise__silence_stays_as_it_is() -> None:
    silence = np.zeros(1000, dtype=np.float32)
    assert np.array_equal(add_noise(silence, CROP[:1000], 5.0), silence)
    assert np.array_equal(add_noise(CROP[:1000], silence, 5.0), CROP[:1000])


def test_reverberate__impulse_becomes_the_room() -> None:
    room = (RNG.normal(size=4001) * 10.0 ** (-np.arange(4001) / 1000)).astype(np.float32)
    room[37] = 8.0
    impulse = np.zeros(12000, dtype=np.float32)
    impulse[5000] = 1.0
    wet = reverberate(impulse, room)
    wanted = np.zeros(12000)
    wanted[5000 - 37 : 5000 - 37 + 4001] = room / np.sqrt(np.sum(room.astype(np.float64) ** 2))
    assert wet.dtype == np.float32 and wet.shape == (12000,)
    assert np.argmax(np.abs(wet)) == 5000
    assert np.allclose(wet, wanted, atol=1e-6)


@pytest.mark.parametrize("room_samples", [1, 2, 777, 40000])
def test_reverberate__equals_the_convolution_sum(room_samples: int) -> None:
    room = RNG.normal(size=room_samples).astype(np.float32)
    crop = CROP[:3000]
    scaled = room / np.sqrt(np.sum(room.astype(np.float64) ** 2))
    delay = int(np.argmax(np.abs(room)))
    wanted = np.convolve(crop.astype(np.float64), scaled)[delay : delay + 3000]
    wanted = np.pad(wanted, (0, 3000 - len(wanted)))
    assert np.allclose(reverberate(crop, room), wanted, atol=1e-5)


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
def test_augment__strategy_applies_what_it_says(
    strategy: str, wanted: set, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        def reverberate_randomly(self, rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
            self.calls.append("room")
            return crop

        def draw_noise(self, rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
            self.calls.append("noise")
            return np.ones(count, dtype=np.float32)

    bank, seen, counts = Recorder(), set(), []
    for seed in range(200):
        bank.calls = []
        augment(CROP, AugmentConfig(strategy=strategy), bank, np.random.default_rng(seed))
        assert bank.calls in ([], ["room"], ["noise"], ["room", "noise"])
        seen.add(("room" in bank.calls, "noise" in bank.calls))
        counts.append(seen and ("room" in bank.calls, "noise" in bank.calls))
    assert seen == wanted
    assert all(counts.count(case) > 150 / len(wanted) * 0.7 for case in wanted)


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


def test_shift_channel__is_repeatable_and_differs_by_key(demo_corpus: Path) -> None:
    bank = Bank(demo_corpus, AugmentConfig(strategy="none"))
    shifted = [shift_channel(CROP, bank, key) for key in ((1, 5), (1, 5), (1, 6))]
    assert np.array_equal(shifted[0], shifted[1]) and not np.array_equal(shifted[0], shifted[2])
    assert shifted[0].dtype == np.float32 and shifted[0].shape == CROP.shape
    assert all(np.max(np.abs(waveform)) <= 1.0 for waveform in shifted)
