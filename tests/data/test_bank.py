import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sslsv.data.augment import AugmentConfig

from sslsv.data.audio import AudioError
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws, RandomStreams

NOISE_ONLY = AugmentConfig(strategy="noise", noise_kinds=("noise",))


def draws_of(number: int) -> Draws:
    return Draws(RandomStreams(3).stream(0, number, 0))


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


def test_bank__cache_is_bounded_and_changes_nothing(tmp_path: Path, demo_corpus: Path) -> None:
    (tmp_path / "musan_split/noise").mkdir(parents=True)
    for i in range(6):  # FLAC: has to be decoded
        noise = np.random.default_rng(i).integers(-9, 9, 100_000).astype(np.int16)
        soundfile.write(tmp_path / f"musan_split/noise/{i}.flac", noise, 16000)
    (tmp_path / "simulated_rirs").symlink_to(demo_corpus / "simulated_rirs")
    config = {"noise_kinds": ("noise",)}
    some, none, all_of_it = (Bank(tmp_path, AugmentConfig(bank_cache_mb=mb, **config)) for mb in (1, 0, 99))
    for number in range(30):
        drawn = [bank.draw_noise(draws_of(number), "noise", 32000) for bank in (some, none, all_of_it)]
        assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])
        rooms = [bank.draw_room(draws_of(number)) for bank in (some, none, all_of_it)]
        spectra = [
            bank.room_spectra([room], 48000)[0]
            for bank, room in zip((some, none, all_of_it), rooms, strict=True)
        ]
        assert np.array_equal(spectra[0], spectra[1]) and np.array_equal(spectra[0], spectra[2])
        assert some._cache.num_bytes <= 2**20 and none._cache.num_bytes == 0
    assert some._cache.num_bytes > 2**19 and all_of_it._cache.num_bytes > 2**20


def test_bank__spectrum_is_that_of_the_room_alone(demo_corpus: Path) -> None:
    bank = Bank(demo_corpus, AugmentConfig(strategy="reverb"))
    rooms = sorted({bank.draw_room(draws_of(number)) for number in range(20)})[:4]
    length = 48000
    together = bank.room_spectra(rooms, length)
    for room, spectrum in zip(rooms, together, strict=True):
        alone = Bank(demo_corpus, AugmentConfig(strategy="reverb"))
        alone._know_room(room)
        assert np.array_equal(alone.room_spectra([room], length)[0], spectrum)
        with bank.recordings.open(bank.files("room")[room]) as file:
            response = file.read_room().astype(np.float64)
        wanted = np.fft.rfft(response / np.sqrt(np.sum(response**2)), length)
        assert np.allclose(spectrum, wanted, atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("seconds", [0.5, 3.0, 40.0])
def test_bank__noise_is_a_piece_of_its_file(tmp_path: Path, seconds: float, suffix: str) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, round(16000 * seconds))
    (tmp_path / "musan_split/noise").mkdir(parents=True)
    soundfile.write(tmp_path / f"musan_split/noise/a{suffix}", noise, 16000)
    bank = Bank(tmp_path, NOISE_ONLY)
    starts = set()
    for seed in range(5):
        drawn = bank.draw_noise(draws_of(seed), "noise", 32000).astype(np.float64)
        start = int(np.argmax(np.correlate(np.tile(noise, 5)[: 16000 * 42], drawn[:1000])))
        piece = np.tile(noise, 7)[start : start + 32000]
        assert np.corrcoef(drawn, piece)[0, 1] > 0.99999
        starts.add(start)
    assert len(starts) == 5


def test_bank__bad_file_is_replaced_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "musan_split/noise"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_text("nothing")
    soundfile.write(folder / "b.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32000), 16000)
    bank = Bank(tmp_path, NOISE_ONLY)
    with caplog.at_level(logging.WARNING):
        draws = [draws_of(number) for number in range(10)]
        first = [bank.draw_noise(each, "noise", 100) for each in draws]
    assert len(caplog.records) == 1 and "a.wav is not audio" in caplog.text
    assert {file for each in draws for file in each.bad_files} == {0}
    assert "a.wav is not audio" in bank.explain(0)
    # Which file had been met before does not change what is drawn.
    again = [bank.draw_noise(draws_of(number), "noise", 100) for number in range(10)]
    assert np.array_equal(first, again)
    (folder / "b.wav").unlink()
    with pytest.raises(AudioError, match="20 noises or rooms in a row"):
        Bank(tmp_path, NOISE_ONLY).draw_noise(draws_of(0), "noise", 100)


def test_bank__silent_room_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "simulated_rirs").mkdir()
    soundfile.write(tmp_path / "simulated_rirs/a.wav", np.zeros(900), 16000)
    bank = Bank(tmp_path, AugmentConfig(strategy="reverb"))
    with pytest.raises(AudioError, match="a.wav is silent"):
        bank.draw_room(draws_of(0))
    assert bank.explain(0).endswith("a.wav is silent: it is no impulse response.")
