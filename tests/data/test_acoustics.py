import numpy as np
import pytest
from sslsv.data.acoustics import add_noise, fft_length, mean_square, room_spectra

from sslsv.data import acoustics

RNG = np.random.default_rng(0)
CROP = RNG.normal(0.0, 0.1, 32000).astype(np.float32)


def reverberate(crop: np.ndarray, room: np.ndarray) -> np.ndarray:
    length, delay = fft_length(len(crop), len(room)), int(np.argmax(np.abs(room)))
    return acoustics.reverberate([crop], room_spectra([room], length), [delay], length)[0]


@pytest.mark.parametrize("length", [1, 3999, 4000, 4001, 32000])
def test_mean_square__is_the_mean_of_squares(length: int) -> None:
    assert np.isclose(mean_square(CROP[:length]), np.mean(CROP[:length].astype(np.float64) ** 2), rtol=1e-6)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 13.0, 40.0])
def test_add_noise__measured_ratio_is_the_one_asked_for(snr_db: float) -> None:
    noise = RNG.uniform(-1.0, 1.0, 32000).astype(np.float32)
    noisy = CROP.copy()
    add_noise(noisy, noise, snr_db)
    added = noisy - CROP
    assert abs(10 * np.log10(mean_square(CROP) / mean_square(added)) - snr_db) < 0.01


def test_add_noise__silence_stays_as_it_is() -> None:
    for levels in ((0.0, 1.0), (1.0, 0.0)):
        crop, noise = (level * CROP[:1000] for level in levels)
        before = crop.copy()
        add_noise(crop, noise, 5.0)
        assert np.array_equal(crop, before)


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


def test_reverberate__bits_do_not_depend_on_the_block() -> None:
    crops = [RNG.normal(size=8000).astype(np.float32) for _ in range(4)]
    rooms = [RNG.normal(size=3000).astype(np.float32) for _ in range(4)]
    length, delays = fft_length(8000, 3000), [5, 0, 17, 200]
    spectra = room_spectra(rooms, length)
    wet = acoustics.reverberate(crops, spectra, delays, length)
    for rows in ([0], [3], [2, 1], [3, 0, 2], [3, 2, 1, 0]):
        chosen = [[values[row] for row in rows] for values in (crops, list(spectra), delays)]
        for row, again in zip(rows, acoustics.reverberate(*chosen, length), strict=True):
            assert np.array_equal(again, wet[row])
        for row, again in zip(rows, room_spectra([rooms[row] for row in rows], length), strict=True):
            assert np.array_equal(again, spectra[row])


def test_fft_length__is_even_and_long_enough() -> None:
    for crop_samples in (1, 2, 16000, 32000, 55555):
        for room_samples in (1, 2, 777, 40000):
            length = fft_length(crop_samples, room_samples)
            assert length % 2 == 0 and length >= crop_samples + room_samples - 1
