"""Validation recordings, each with a channel of its own.

Where every speaker has one session, the channel would tell who speaks.
"""

import os
from dataclasses import replace

import numpy as np

from sslsv.data.audio import to_waveform
from sslsv.data.augment import AugmentConfig, augment
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.rounding import Waveform


class Shifter:
    """Gives each recording a room, a noise (SNR 5 to 15 dB) and a level (-15 to 0 dB) of its own.

    Rooms and noises are the training's.  Pure in (seed, path, version): every validation hears the same.
    """

    def __init__(self, root: str | os.PathLike[str], config: AugmentConfig, seed: int) -> None:
        self.seed = seed
        self.config = replace(
            config,
            strategy="reverb_and_noise",
            probability=1.0,
            noise_kinds=("noise",),
            noise_snr_db=(5.0, 15.0),
            gain_db=(-15.0, 0.0),
        )
        self.bank = Bank(root, self.config)

    def read(self, path: str, version: int) -> Waveform:
        """A whole recording (T,), shifted, full scale 1; raises AudioError."""
        rng = np.random.default_rng([self.seed, version, *os.fsencode(path)])
        with self.bank.recordings.open(path) as recording:
            crop = recording.read_int16(0, recording.num_samples)
            views = np.empty((1, len(crop)), dtype=np.int16)
            augment([crop], self.config, self.bank, [Draws(iter(rng.random, None))], views)
        return to_waveform(views[0])
