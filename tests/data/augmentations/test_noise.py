from pathlib import Path

import numpy as np

from sslsv.data.augmentations.noise import Noise, add_noise
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams
from sslsv.data.recordings import open_recordings

CROP = np.random.default_rng(0).normal(0.0, 3000.0, 32000).astype(np.float32)


def noise_of(root: Path, **settings: object) -> Noise:
    return Noise(Noise.Config(**settings), Bank(open_recordings(root), 16))


def plain_noise(noise: Noise, number: int) -> np.ndarray:
    # Slow reference in float64, with the same draws.
    folder, num_files, snr_db, rng = noise.draw(RandomStreams(3).draws(0, number, "noise"))
    total = np.zeros(len(CROP))
    for _ in range(num_files):
        part = noise.bank.draw_noise(rng, folder, len(CROP)).astype(np.float64)
        total += part / np.sqrt(np.mean(part**2))
    power = np.mean(CROP.astype(np.float64) ** 2)
    return CROP + total * np.sqrt(power / np.mean(total**2)) * 10 ** (-snr_db / 20)


def test_apply__equals_the_plain_way(demo_corpus: Path) -> None:
    noise = noise_of(demo_corpus, speech_files=(3, 7))
    numbers = range(30)
    draws = [noise.draw(RandomStreams(3).draws(0, number, "noise")) for number in numbers]
    for number, noisy in zip(numbers, noise.apply([CROP.copy() for _ in numbers], draws), strict=True):
        assert np.allclose(noisy, plain_noise(noise, number), atol=0.05)


def test_draw__kinds_are_equally_likely_and_each_has_its_ratio(demo_corpus: Path) -> None:
    ranges = {"noise": (0.0, 1.0), "music": (5.0, 6.0), "speech": (13.0, 14.0)}
    noise = noise_of(
        demo_corpus,
        snr_db=ranges["noise"],
        music_snr_db=ranges["music"],
        speech_snr_db=ranges["speech"],
        speech_files=(3, 5),
    )
    drawn = [noise.draw(RandomStreams(3).draws(0, number, "noise")) for number in range(300)]
    for kind, (low, high) in ranges.items():
        mine = [(count, snr_db) for folder, count, snr_db, _ in drawn if folder == f"musan_split/{kind}"]
        assert len(mine) > 70 and all(low <= snr_db < high for _, snr_db in mine)
        assert {count for count, _ in mine} == ({3, 4, 5} if kind == "speech" else {1})


def test_add_noise__silence_stays_as_it_is() -> None:
    for levels in ((0.0, 1.0), (1.0, 0.0)):
        crop, noise = (np.float32(level) * CROP[:1000] for level in levels)
        before = crop.copy()
        add_noise(crop, noise, 5.0)
        assert np.array_equal(crop, before)
