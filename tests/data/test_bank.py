import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError
from sslsv.data.bank import Bank, _max_mapped
from sslsv.data.draws import Draws, RandomStreams
from sslsv.data.recordings import open_recordings

NOISES, RIRS = "musan_split/noise", "simulated_rirs"


def draws_of(number: int) -> Draws:
    return RandomStreams(3).draws(0, number, "a")


def bank_of(root: Path, folder: str = NOISES, cache_mb: int = 256) -> Bank:
    bank = Bank(open_recordings(root), cache_mb)
    bank.add(folder)
    return bank


def test_bank__missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no audio files below .*musan_split/noise: .*data\.augment"):
        bank_of(tmp_path)


@pytest.mark.parametrize(
    ("folder", "original"),
    [
        ("musan_split/noise", "musan/noise"),
        ("simulated_rirs", "RIRS_NOISES/simulated_rirs"),
        ("simulated_rirs/smallroom", "RIRS_NOISES/simulated_rirs/smallroom"),
    ],
)
def test_bank__reads_what_archives_unpack_where_its_own_folder_is_not_there(
    tmp_path: Path, folder: str, original: str
) -> None:
    (tmp_path / original).mkdir(parents=True)
    (tmp_path / original / "a.wav").touch()
    bank = bank_of(tmp_path, folder)
    assert bank.files == [f"{original}/a.wav"]
    assert bank.notes == [f"{folder} does not exist: {original} is read instead"]
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "b.wav").touch()
    bank = bank_of(tmp_path, folder)
    assert (bank.files, bank.notes) == ([f"{folder}/b.wav"], [])


def test_bank__cache_is_bounded_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / NOISES).mkdir(parents=True)
    for i in range(6):  # FLAC must be decoded
        noise = np.random.default_rng(i).integers(-9, 9, 100_000).astype(np.int16)
        soundfile.write(tmp_path / f"{NOISES}/{i}.flac", noise, 16000)
    some, none, all_of_it = (bank_of(tmp_path, cache_mb=mb) for mb in (1, 0, 99))
    for number in range(30):
        drawn = [bank.draw_noise(draws_of(number), NOISES, 32000) for bank in (some, none, all_of_it)]
        assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])
        assert some.cache.num_bytes <= 2**20 and none.cache.num_bytes == 0
    assert some.cache.num_bytes > 2**19 and all_of_it.cache.num_bytes > 2**20


@pytest.mark.parametrize(
    ("limits", "most", "asked"),
    [
        ((1024, 9000), 4500, (9000, 9000)),
        ((1024, 10**6), 20_000, (40_000, 10**6)),
        ((1024, -1), 20_000, (40_000, -1)),
        ((10**6, 10**6), 20_000, None),
    ],
)
def test_bank__maps_half_as_many_noises_as_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], most: int, asked: tuple[int, int] | None
) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: raised.append(both))
    assert _max_mapped.__wrapped__() == most and raised == ([asked] if asked else [])


def test_bank__noises_beyond_what_may_be_mapped_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NOISES).mkdir(parents=True)
    for i in range(3):
        soundfile.write(tmp_path / f"{NOISES}/{i}.wav", np.full(9, i, np.int16), 16000)
    monkeypatch.setattr("sslsv.data.bank._max_mapped", lambda: 1)
    bank = bank_of(tmp_path)
    drawn = {int(bank.draw_noise(draws_of(number), NOISES, 9)[0]) for number in range(20)}
    assert drawn == {0, 1, 2} and len(bank._mapped) == 1


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("seconds", [0.5, 3.0, 40.0])
def test_bank__noise_is_a_piece_of_its_file(tmp_path: Path, seconds: float, suffix: str) -> None:
    count = round(16000 * seconds)
    ramp = (np.arange(count) // 10 - 32000).astype(np.int16)  # a value shows its position within ten samples
    (tmp_path / NOISES).mkdir(parents=True)
    soundfile.write(tmp_path / f"{NOISES}/a{suffix}", ramp, 16000)
    bank = bank_of(tmp_path)
    starts = set()
    for seed in range(5):
        drawn = bank.draw_noise(draws_of(seed), NOISES, 32000)
        first = 10 * (int(drawn[0]) + 32000)
        repeated = np.resize(ramp, count + 2 * 32000)
        assert any(
            np.array_equal(drawn, repeated[start : start + 32000]) for start in range(first, first + 10)
        )
        starts.add(first)
    assert len(starts) == 5


def test_bank__bad_file_is_replaced_and_named(tmp_path: Path) -> None:
    folder = tmp_path / NOISES
    folder.mkdir(parents=True)
    (folder / "a.wav").write_text("nothing")
    soundfile.write(folder / "b.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32000), 16000)
    bank = bank_of(tmp_path)
    draws = [draws_of(number) for number in range(10)]
    first = [bank.draw_noise(each, NOISES, 100) for each in draws]
    assert {file for each in draws for file in each.bad_files} == {0}
    # Draws do not depend on the files that were opened before.
    again = [bank.draw_noise(draws_of(number), NOISES, 100) for number in range(10)]
    assert np.array_equal(first, again)
    (folder / "b.wav").unlink()
    with pytest.raises(AudioError, match="20 noises or rirs in a row"):
        bank_of(tmp_path).draw_noise(draws_of(0), NOISES, 100)


def test_bank__rir_has_its_direct_path_and_a_bounded_tail(tmp_path: Path) -> None:
    (tmp_path / RIRS).mkdir()
    rir = np.zeros(50_000)
    rir[300] = 0.5
    soundfile.write(tmp_path / f"{RIRS}/a.wav", rir, 16000)
    bank = bank_of(tmp_path, RIRS)
    drawn = bank.draw_rir(draws_of(0), RIRS)
    assert drawn == (0, 300, 300 + 40_000) and len(bank.read_rir(0)) == 50_000
