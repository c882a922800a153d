from pathlib import Path

import numpy as np
from sslsv.data.augment import AugmentConfig
from sslsv.data.shift import Shifter

from sslsv.data.audio import read_whole
from sslsv.data.lists import read_trials


def test_read__is_repeatable_and_differs_by_version_path_and_seed(demo_corpus: Path) -> None:
    first, second = read_trials(demo_corpus, "trials").paths[:2]
    shifter = Shifter(demo_corpus, AugmentConfig(strategy="none"), seed=1)
    shifted = shifter.read(first, 0)
    assert shifted.dtype == np.float32 and shifted.shape == read_whole(demo_corpus / first).shape
    assert np.array_equal(
        Shifter(demo_corpus, AugmentConfig(strategy="none"), seed=1).read(first, 0), shifted
    )
    others = [shifter.read(first, 1), shifter.read(second, 0)]
    others.append(Shifter(demo_corpus, AugmentConfig(strategy="none"), seed=2).read(first, 0))
    for other in others:
        length = min(len(other), len(shifted))
        assert not np.array_equal(other[:length], shifted[:length])


def test_read__stays_within_full_scale_at_varied_levels(demo_corpus: Path) -> None:
    path = read_trials(demo_corpus, "trials").paths[0]
    shifter = Shifter(demo_corpus, AugmentConfig(), seed=1)
    peaks = [float(np.abs(shifter.read(path, version)).max()) for version in range(20)]
    assert max(peaks) <= 1.0 and max(peaks) / min(peaks) > 2.0
