from pathlib import Path

import numpy as np
import pytest

from sslsv.data.augmentations.reverb import Reverb, fft_length, reverberate, rir_spectra
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams
from sslsv.data.recordings import open_recordings

RNG = np.random.default_rng(0)
CROP = RNG.normal(0.0, 0.1, 32000).astype(np.float32)


def in_room(crop: np.ndarray, rir: np.ndarray) -> np.ndarray:
    length, delay = fft_length(len(crop), len(rir)), int(np.argmax(np.abs(rir)))
    return reverberate([crop], rir_spectra([rir], length), [delay], length)[0]


@pytest.mark.parametrize("rir_samples", [1, 2, 777, 40000])
def test_reverberate__equals_the_convolution_sum(rir_samples: int) -> None:
    rir = RNG.normal(size=rir_samples).astype(np.float32)
    crop = CROP[:3000]
    scaled = rir / np.sqrt(np.sum(rir.astype(np.float64) ** 2))
    delay = int(np.argmax(np.abs(rir)))
    expected = np.convolve(crop.astype(np.float64), scaled)[delay : delay + 3000]
    expected = np.pad(expected, (0, 3000 - len(expected)))
    assert np.allclose(in_room(crop, rir), expected, atol=1e-5)


@pytest.mark.parametrize("cache_mb", [0, 16])
def test_apply__crops_of_any_length_are_each_in_their_room(demo_corpus: Path, cache_mb: int) -> None:
    reverb = Reverb(Reverb.Config(), Bank(open_recordings(demo_corpus), cache_mb))
    draws = [reverb.draw(RandomStreams(3).draws(0, number, "reverb")) for number in range(4)]
    crops = [CROP[: 8000 + 4000 * (number % 3)] for number in range(4)]
    for _ in range(2):
        for crop, rir, wet in zip(crops, draws, reverb.apply(crops, draws), strict=True):
            assert np.allclose(
                wet, in_room(crop, reverb.bank.read_rir(rir.file)[: rir.num_samples]), atol=1e-6
            )
    assert len({rir.file for rir in draws}) > 1
