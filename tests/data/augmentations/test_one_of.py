from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sslsv.data.augmentations.one_of import OneOf
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams
from sslsv.data.recordings import open_recordings
from sslsv.data.section import augmentation_settings as settings

CHOICES = (settings("gain", level_db=[-6, -6]), settings("gain", level_db=[6, 6], probability=0.5))


def one_of(root: Path, **values: object) -> OneOf:
    return OneOf(OneOf.Config(**values), Bank(open_recordings(root), 16))


@pytest.mark.parametrize(
    ("choices", "shares"), [(CHOICES, (0.5, 0.25)), ((*CHOICES, CHOICES[1]), (0.33, 0.17))]
)
def test_draw__choices_have_their_shares(demo_corpus: Path, choices: tuple, shares: tuple) -> None:
    choice = one_of(demo_corpus, choices=choices)
    rng = RandomStreams(1).draws(0, 0, "one_of")
    counts = Counter(None if (drawn := choice.draw(rng)) is None else drawn[0] for _ in range(4000))
    assert [counts[i] / 4000 for i in (0, 1)] == pytest.approx(list(shares), abs=0.03)


def test_apply__each_crop_gets_its_own_choice(demo_corpus: Path) -> None:
    choice = one_of(demo_corpus, choices=CHOICES)
    crops = [np.full(10, i + 1, dtype=np.int16) for i in range(4)]
    changed = choice.apply(crops, [(1, 2.0), (0, 3.0), (1, 4.0), (0, 5.0)])
    assert [crop[0] for crop in changed] == [2, 6, 12, 20]
