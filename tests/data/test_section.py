import subprocess
import sys
from typing import Any

import pytest

from sslsv.config import Config, read_config, to_yaml
from sslsv.data.section import augmentation_settings, channel_of
from sslsv.settings import ConfigError, apply_overrides


def augment_of(value: Any) -> tuple[Any, ...]:
    config = apply_overrides(Config(), {"data.augment": value})
    assert read_config(to_yaml(config)) == config
    return config.data.augment


def test_augment__names_choose_files_in_the_order_given() -> None:
    assert [each.name for each in Config().data.augment] == ["reverb", "noise"]
    reverb, choice = augment_of(
        ["reverb", {"name": "one_of", "choices": ["gain", {"name": "noise", "snr_db": [1, 2]}]}]
    )
    assert (reverb.probability, choice.choices[0].name, choice.choices[1].snr_db) == (1.0, "gain", (1.0, 2.0))
    config = apply_overrides(Config(), ["data.augment=[{name: noise}]", "data.augment.noise.probability=0.5"])
    assert config.data.augment[0].probability == 0.5


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], r"speeds is \[\]"),
        ([0.9, 3.0], r"speeds\[1\] is 3"),
        ([0.93], r"speeds\[0\] is 0.93: not a fraction .* the nearest is 0.9285714285714286"),
    ],
)
def test_speeds__impossible_ones_are_named(value: list, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.{sentence}"):
        apply_overrides(Config(), {"data.speeds": value})


@pytest.mark.parametrize("speeds", [[1.0], [1.0, 0.9, 1.0]])
def test_speeds__as_classes_must_be_several_different_ones(speeds: list[float]) -> None:
    changes = {"data.speeds": speeds, "data.speeds_are_classes": True}
    with pytest.raises(ConfigError, match=r"^data.speeds_are_classes is true and speeds \[1.0"):
        apply_overrides(Config(), changes)
    assert apply_overrides(Config(), {**changes, "data.speeds": [1.0, 0.9]}).data.classes_per_speaker == 2


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (["nois"], r"augment\[0\].name is 'nois', which is not known; did you mean 'noise'"),
        ([{"snr_db": [1, 2]}], r"augment\[0\].name is missing; choose one of 'gain'"),
        ([{"name": "noise", "snr": 1}], r"augment\[0\].snr is not a setting; did you mean data.*snr_db"),
        ([{"name": "noise", "snr_db": [5, 2]}], r"augment\[0\].snr_db is \(5.0, 2.0\): the first must not"),
        ([{"name": "noise", "speech_files": [0, 2]}], r"augment\[0\].speech_files\[0\] is 0"),
        ([{"name": "noise", "probability": 2}], r"augment\[0\].probability is 2; it should be less than or"),
        (["noise", "gain", "noise"], r"augment is \['noise', 'gain', 'noise'\]; two of one name"),
        ([{"name": "one_of", "choices": ["nois"]}], r"augment\[0\].choices\[0\].name is 'nois'"),
    ],
)
def test_augment__mistakes_are_named_with_their_place(value: list, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.{sentence}"):
        augment_of(value)


def test_section__needs_no_large_library() -> None:
    code = (
        "import sys; from sslsv.data.section import DataConfig; DataConfig()\n"
        "print(sorted({'torch', 'ray', 'scipy', 'soundfile', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ONE_OF = {"choices": [{"name": "noise", "snr_db": [0, 1]}, {"name": "reverb"}], "probability": 0.5}


@pytest.mark.parametrize(
    ("training", "names"),
    [
        ([("reverb", {"probability": 0.1}), ("noise", {"probability": 0.1})], ["reverb", "noise", "gain"]),
        ([("one_of", ONE_OF)], ["reverb", "noise", "gain"]),
        ([("noise", {}), ("gain", {"level_db": [-3, 3]})], ["noise", "gain"]),
        ([("reverb", {})], ["reverb", "gain"]),
        ([], ["gain"]),
    ],
)
def test_channel_of__has_the_rooms_and_noises_that_training_has(training: list, names: list[str]) -> None:
    channel = channel_of([augmentation_settings(name, **values) for name, values in training])
    assert [each.name for each in channel] == names
    assert {each.probability for each in channel} == {1.0} and channel[-1].level_db == (-15.0, 0.0)
    for noise in channel:
        if noise.name == "noise":
            assert (noise.kinds, noise.snr_db) == (("noise",), (5.0, 15.0))
    music = channel_of([augmentation_settings("noise", kinds=["music"], music_snr_db=[1, 2])])[0]
    assert music.kinds == ("music",) and music.music_snr_db == (1.0, 2.0)
