import dataclasses

import pytest

from sslsv.config import Config, TrainConfig
from sslsv.data.timed_views import DATA_SECTIONS
from sslsv.training.profile_advice import advice
from sslsv.training.step_parts import STEP_SECTIONS

BUSY = {"forward": 0.4, "backward": 0.5}
FAST = Config(train=TrainConfig(precision="bf16", channels_last=True))


def profile(data=None, **values):
    seconds = {**dict.fromkeys(STEP_SECTIONS, 0.001), **BUSY, **values.pop("seconds", {})}
    data_seconds = {**dict.fromkeys(DATA_SECTIONS, 0.001), **(data or {})}
    return {"seconds": seconds, "data_seconds": data_seconds, "has_gpu": False, "has_bf16": True} | values


@pytest.mark.parametrize(
    ("largest", "setting"),
    [
        ("read and decode", "prepare_data pack"),
        ("room", "data.augment.strategy"),
        ("noise", "data.augment.speech_files"),
        ("rest", "resources.utterances_per_block"),
    ],
)
def test_advice__on_waiting_names_what_data_processes_do_most(largest, setting):
    found = advice(profile({largest: 1.0}, seconds={"waiting for data": 0.2}), FAST)
    assert found[0] == "waiting for data"
    assert largest in found[1] and setting in found[1] and "resources.data_tasks" in found[1]


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("communication", "resources.workers"),
        ("reporting", "train.log_every_steps"),
        ("transfer", "train.batch_size"),
        ("optimizer", "train.batch_size"),
        ("features", "encoder.width"),
    ],
)
def test_advice__names_the_setting_of_the_part_that_takes_too_much(section, setting):
    found = advice(profile(seconds={section: 2.0}), FAST)
    assert found[0] == section and setting in found[1]


@pytest.mark.parametrize(
    ("train", "values", "setting"),
    [
        (TrainConfig(), {}, "train.precision=bf16"),
        (TrainConfig(), {"has_bf16": False}, "train.channels_last=true"),
        (FAST.train, {}, "encoder.stem_time_stride=2"),
        (FAST.train, {"has_gpu": True}, "train.compile=true"),
        (dataclasses.replace(FAST.train, compile=True), {"has_gpu": True}, "resources.workers"),
    ],
)
def test_advice__on_the_encoder_begins_with_what_is_free(train, values, setting):
    found = advice(profile(**values), Config(train=train))
    assert found[0] == "backward" and setting in found[1]
