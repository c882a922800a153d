"""How many trials run at once, and what a sweep will cost."""

import dataclasses
import os

import pytest

from sslsv.config import Config, DataConfig, EvaluationConfig, ResourcesConfig, TrainConfig
from sslsv.data.pipeline import plain_batches
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.simclr import SimCLR
from sslsv.search import Asha, Halving, Hyperband, RunAll, TopK
from sslsv.search.forecast import forecast, seconds_per_epoch
from sslsv.search.places import find_places

LAPTOP = ({"CPU": 2.0}, [{"CPU": 2.0}])
GPUS = ({"CPU": 32.0, "GPU": 4.0}, [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}])


def places(resources=None, cluster=LAPTOP, has_gpu=False, gpus=1.0, trials=100, wanted=None):
    return find_places(resources or ResourcesConfig(), has_gpu, gpus, *cluster, trials, wanted)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_find_places__two_cores_hold_two_trials_of_one_thread_or_one_of_two(two_cores):
    two = places()
    assert (two.at_once, two.threads, two.data_tasks) == (2, 1, 1)
    one = places(wanted=1)
    assert (one.at_once, one.threads, one.data_tasks) == (1, 2, 3)
    assert places(trials=1) == one


def test_find_places__every_trial_keeps_a_data_process_of_its_own():
    for cpus in (2.0, 3.0, 7.5, 16.0):
        found = places(cluster=({"CPU": cpus}, [{"CPU": cpus}]))
        assert found.at_once * (0.5 + found.data_tasks * 0.5) <= cpus


def test_find_places__gpus_may_be_shared_by_trials_of_one_worker():
    assert places(cluster=GPUS, has_gpu=True).at_once == 4
    assert places(cluster=GPUS, has_gpu=True, gpus=0.5).at_once == 8
    assert places(ResourcesConfig(workers=2), GPUS, has_gpu=True).at_once == 2
    # 0.4 of a GPU leaves 0.2 of it to nobody.
    assert (
        places(
            cluster=({"CPU": 32.0, "GPU": 1.0}, [{"CPU": 32.0, "GPU": 1.0}]), has_gpu=True, gpus=0.4
        ).at_once
        == 2
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"wanted": 3},
            "3 trials at once are asked for, but each takes 1 of the 2 free CPUs, so from 1 to 2 fit",
        ),
        ({"wanted": 0}, "0 trials at once"),
        ({"resources": ResourcesConfig(threads_per_worker=2)}, "2 x|1 x 2 threads .* want 4 of 2 cores"),
        ({"cluster": GPUS, "has_gpu": True, "wanted": 5}, "each takes 1 of the 4 free GPUs"),
        (
            {"resources": ResourcesConfig(workers=2), "cluster": GPUS, "has_gpu": True, "gpus": 0.5},
            "only trials with one worker can share",
        ),
        ({"resources": ResourcesConfig(workers=3)}, "not one fits"),
    ],
)
def test_find_places__what_does_not_fit_is_a_sentence(two_cores, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        places(**changes)


def test_forecast__counts_legs_epochs_and_time():
    assert forecast(RunAll(), 4, (10,), at_once=2, seed=1) == forecast(RunAll(), 4, (10,), 2, seed=2)
    all_of_them = forecast(RunAll(), 5, (10,), at_once=2, seed=1)
    assert (all_of_them.legs_to, all_of_them.epochs, all_of_them.epochs_in_a_row) == ((5,), 50, 30)
    halving = forecast(Halving(3), 9, (1, 3, 9), at_once=9, seed=1)
    assert (halving.legs_to, halving.epochs, halving.epochs_in_a_row) == ((9, 3, 1), 9 + 6 + 6, 9)
    assert forecast(TopK(2), 9, (1, 9), at_once=1, seed=1).epochs == 9 + 16
    assert forecast(Hyperband(3), 17, (1, 3, 9), at_once=1, seed=1).legs_to == (9, 3 + 5, 1 + 1 + 3)
    asha = forecast(Asha(3), 27, (1, 3, 9), at_once=4, seed=1)
    assert asha.legs_to[0] == 27 and asha.legs_to[1] >= 9 and asha.epochs < 27 * 9 / 2


def test_seconds_per_epoch__times_real_steps(demo_corpus):
    config = Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        train=TrainConfig(batch_size=8),
        evaluation=EvaluationConfig(held_out_speakers=3),
    )
    crops = [dataclasses.replace(config, model=SimCLR.Config(crop_seconds=length)) for length in (0.3, 4.0)]
    short, long = (seconds_per_epoch(crop, has_gpu=False, threads=1) for crop in crops)
    assert 0 < short < long


def test_seconds_per_epoch__takes_the_chunks_in_which_training_takes_a_batch(demo_corpus, monkeypatch):
    sizes = []
    forward = ThinResNet34.forward
    monkeypatch.setattr(ThinResNet34, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    config = Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=SimCLR.Config(crop_seconds=0.3),
        train=TrainConfig(batch_size=8, chunk_size=4, sync_batchnorm=False),
    )
    assert seconds_per_epoch(config, has_gpu=False, threads=1, steps=1) > 0
    assert set(sizes) == {8}  # two views of 4


def test_seconds_per_epoch__of_several_workers_times_the_share_of_one(demo_corpus, monkeypatch):
    shares = []

    def counted(*arguments, **options):
        for batch in plain_batches(*arguments, **options):
            shares.append(len(batch["bad_utterance"]))
            yield batch

    monkeypatch.setattr("sslsv.search.forecast.plain_batches", counted)
    config = Config(
        data=DataConfig(root=str(demo_corpus)),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        model=SimCLR.Config(crop_seconds=0.3),
        train=TrainConfig(batch_size=8),
        resources=ResourcesConfig(workers=2),
    )
    assert seconds_per_epoch(config, has_gpu=False, threads=1, steps=1) > 0 and shares == [4]
