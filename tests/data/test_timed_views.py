import numpy as np
import pytest

from sslsv.config import DataConfig
from sslsv.data.augmentations import reverb
from sslsv.data.lists import read_train_lists
from sslsv.data.timed_views import DATA_SECTIONS, MAKING_SECONDS, TimedViewMaker
from sslsv.data.views import ViewMaker

ROWS = {name: np.arange(8) for name in ("sample", "epoch", "utterance", "partner")}


@pytest.fixture
def maker(demo_corpus):
    config = DataConfig(root=str(demo_corpus), train_lists=("voxceleb2_train_list",))
    return ViewMaker(
        read_train_lists(config.root, config.train_lists), (("views", 2, 0.5, False),), config, seed=1
    )


def test_timed_view_maker__makes_the_same_batches_and_accounts_for_its_time(maker, clock):
    plain = maker.make_batch(ROWS)
    timed = TimedViewMaker(maker)
    before = reverb.reverberate
    batch = timed.make_batch(ROWS)
    assert reverb.reverberate is before
    column = batch.pop(MAKING_SECONDS)
    assert batch.keys() == plain.keys()
    assert all(np.array_equal(batch[name], plain[name]) for name in plain)
    assert column.shape == (8, len(DATA_SECTIONS)) and (column > 0).all()
    assert column.sum() == pytest.approx(clock.now - clock.tick_seconds)  # from its first look to its last


def test_timed_view_maker__times_the_second_batch_and_every_nth_after_it(maker):
    timed = TimedViewMaker(maker, 3)
    sums = [timed.make_batch(ROWS)[MAKING_SECONDS].sum() for _ in range(6)]
    assert [bool(seconds) for seconds in sums] == [False, True, False, False, True, False]
