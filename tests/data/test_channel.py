from pathlib import Path

import numpy as np
import pytest

from sslsv.data.audio import read_whole
from sslsv.data.channel import ChannelSimulator, channel_of
from sslsv.data.lists import read_trials
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig, augmentation_settings


def simulator_of(root: Path, seed: int = 1) -> ChannelSimulator:
    return ChannelSimulator(open_recordings(root), DataConfig(root=str(root)), seed)


def test_read__is_repeatable_and_differs_by_version_path_and_seed(demo_corpus: Path) -> None:
    first, second = read_trials(demo_corpus, "trials").paths[:2]
    simulator = simulator_of(demo_corpus)
    heard = simulator.read(first, 0)
    assert heard.dtype == np.float32 and heard.shape == read_whole(demo_corpus / first).shape
    assert np.array_equal(simulator_of(demo_corpus).read(first, 0), heard)
    others = [simulator.read(first, 1), simulator.read(second, 0)]
    for other in [*others, simulator_of(demo_corpus, seed=2).read(first, 0)]:
        length = min(len(other), len(heard))
        assert not np.array_equal(other[:length], heard[:length])


def test_read__stays_within_full_scale_at_varied_levels(demo_corpus: Path) -> None:
    path = read_trials(demo_corpus, "trials").paths[0]
    simulator = simulator_of(demo_corpus)
    peaks = [float(np.abs(simulator.read(path, version)).max()) for version in range(20)]
    assert max(peaks) <= 1.0 and max(peaks) / min(peaks) > 2.0


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


def test_channel_of__music_alone_stays_music(demo_corpus: Path) -> None:
    channel = channel_of([augmentation_settings("noise", kinds=["music"], music_snr_db=[1, 2])])
    assert channel[0].kinds == ("music",) and channel[0].music_snr_db == (1.0, 2.0)
