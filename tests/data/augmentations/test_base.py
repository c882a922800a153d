from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslsv.data.audio import FULL_SCALE
from sslsv.data.augmentations.base import Augmenter, mean_square
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams
from sslsv.data.recordings import open_recordings
from sslsv.data.section import augmentation_settings as settings

CROP = np.random.default_rng(0).normal(0.0, 3000.0, 32000).astype(np.int16)


def views_of(root: Path, augment: list[Any], numbers: list[int]) -> np.ndarray:
    views = np.tile(CROP, (len(numbers), 1))
    streams = [partial(RandomStreams(3).draws, 0, number) for number in numbers]
    Augmenter(augment, Bank(open_recordings(root), 16)).augment(views, streams)
    return views


@pytest.mark.parametrize("length", [1, 3999, 4000, 4001, 32000])
def test_mean_square__is_the_mean_of_squares(length: int) -> None:
    waveform = CROP[:length].astype(np.float32)
    assert np.isclose(mean_square(waveform), np.mean(waveform.astype(np.float64) ** 2), rtol=1e-6)


def test_augment__another_augmentation_leaves_the_draws_of_the_others(demo_corpus: Path) -> None:
    quiet = settings("gain", level_db=[-6.0206, -6.0206])  # a half
    reverb, noise = settings("reverb", probability=0.6), settings("noise", probability=0.6)
    numbers = list(range(12))
    alone = views_of(demo_corpus, [noise], numbers).astype(int)
    with_gain = views_of(demo_corpus, [noise, quiet], numbers).astype(int)
    assert np.abs(2 * with_gain - alone).max() <= 2 and (alone != CROP).any()
    # If the draw skips reverberation, the noise equals that of a pipeline without reverberation.
    both, rooms = (views_of(demo_corpus, each, numbers) for each in ([reverb, noise], [reverb]))
    is_dry = (rooms == CROP).all(axis=1)
    assert 0 < is_dry.sum() < 12 and np.array_equal(both[is_dry], alone[is_dry])


def test_augment__too_loud_is_made_quieter_as_a_whole(demo_corpus: Path) -> None:
    view = views_of(demo_corpus, [settings("gain", level_db=[40, 40])], [0])[0]
    ratio = 32767 / np.abs(CROP.astype(int)).max()
    assert np.abs(view - CROP * ratio).max() < 0.51 and np.abs(view).max() < FULL_SCALE
