"""Validation recordings, each with a channel of its own.

Where every speaker has one session, the channel would tell who speaks.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from sslsv.data.audio import Waveform, read_whole
from sslsv.data.augment import AugmentConfig, Bank, augment


class Shifter:
    """Gives each recording a room, a noise (SNR 5 to 15 dB) and a level (-15 to 0 dB) of its own.

    Rooms and noises are the training's.  Pure in (seed, path, version): every validation hears the same.
    """

    def __init__(self, root: str | os.PathLike[str], config: AugmentConfig, seed: int) -> None:
        self.root, self.seed = Path(root), seed
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
        """A whole recording (T,), shifted, float32 in [-1, 1]; raises AudioError."""
        rng = np.random.default_rng([self.seed, version, *os.fsencode(path)])
        shifted = augment(read_whole(self.root / path), self.config, self.bank, rng)
        loudest = max(np.float32(1.0), np.abs(shifted).max())
        within_scale: Waveform = shifted / loudest
        return within_scale
