"""The channel simulator of validation: a room, a noise and a level for each recording.

Where every speaker has one session, the channel alone would tell who speaks.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sslsv.data.audio import Waveform, to_waveform
from sslsv.data.augmentations.base import Augmenter
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams, name_key
from sslsv.data.recordings import Recordings
from sslsv.data.section import DataConfig, augmentation_settings


def channel_of(augment: Sequence[Any]) -> tuple[Any, ...]:
    """Return augmentations that give every recording a channel, with the rooms and noises that training has.

    Noises are of the kind "noise" if training has it (others talking would be voices), at an SNR of 5 to
    15 dB; the level changes by -15 to 0 dB.
    """
    by_name = {each.name: replace(each, probability=1.0) for each in reversed(list(_flat(augment)))}
    if (noise := by_name.get("noise")) and "noise" in noise.kinds:
        settings = {"kinds": ["noise"], "snr_db": [5.0, 15.0], "folder": noise.folder}
        by_name["noise"] = augmentation_settings("noise", **settings)
    by_name["gain"] = augmentation_settings("gain", level_db=[-15.0, 0.0])
    return tuple(by_name[name] for name in ("reverb", "noise", "gain") if name in by_name)


class ChannelSimulator:
    """Read recordings, each through a channel of its own; pure in (seed, name, version)."""

    def __init__(self, recordings: Recordings, data: DataConfig, seed: int) -> None:
        self._recordings, self._streams = recordings, RandomStreams(seed)
        self._augmenter = Augmenter(channel_of(data.augment), Bank(recordings, data.bank_cache_mb))

    def read(self, name: str, version: int) -> Waveform:
        """Return a whole recording (T,), full scale 1; raises AudioError."""
        with self._recordings.open(name) as recording:
            samples = recording.read_int16(0, recording.num_samples)
        draws = partial(self._streams.draws, version, name_key(os.fsencode(name), 8))
        views = np.empty((1, len(samples)), dtype=np.int16)
        self._augmenter.augment([samples], [draws], views)
        return to_waveform(views[0])


def _flat(augment: Sequence[Any]) -> Iterator[Any]:
    for each in augment:
        if each.name == "one_of":
            yield from _flat(each.choices)
        else:
            yield each
