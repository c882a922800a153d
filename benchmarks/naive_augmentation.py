"""Implement augmentation in the usual way: entire files in float64, one scipy convolution per crop."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy import signal

CROP = 32_000  # samples
SNR_DB = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}


class NaiveAugmentation:
    """Read entire files and augment one crop after the other."""

    def __init__(self, root: Path, augment: tuple[Any, ...], seed: int) -> None:
        self.names, self.rng = [each.name for each in augment], np.random.default_rng(seed)
        self.paths = sorted(map(str, (root / "voxceleb2").rglob("*.wav")))
        self.noises = {kind: sorted(map(str, (root / "musan_split" / kind).rglob("*"))) for kind in SNR_DB}
        self.rooms = sorted(map(str, (root / "simulated_rirs").rglob("*")))

    def batch(self, count: int) -> np.ndarray:
        """Return augmented crops (count, CROP)."""
        views = np.empty((count, CROP), dtype=np.float32)
        for i in range(count):
            audio, _ = soundfile.read(self.paths[i % len(self.paths)])
            start = self.rng.integers(len(audio) - CROP + 1)
            views[i] = self.augment(audio[start : start + CROP])
        return views

    def augment(self, crop: np.ndarray) -> np.ndarray:
        if self.names == ["reverb", "noise"]:
            return self.add_noise(self.reverberate(crop), str(self.rng.choice(list(SNR_DB))))
        if self.names == ["noise"]:
            return self.add_noise(crop, str(self.rng.choice(list(SNR_DB))))
        if self.names == ["one_of"]:
            choice = self.rng.integers(5)
            if choice == 1:
                return self.reverberate(crop)
            return self.add_noise(crop, list(SNR_DB)[choice - 2]) if choice > 1 else crop
        return crop

    def reverberate(self, crop: np.ndarray) -> np.ndarray:
        room, _ = soundfile.read(self.rooms[self.rng.integers(len(self.rooms))])
        room = room / np.sqrt(np.sum(room**2))
        return signal.convolve(crop, room, mode="full")[: len(crop)]

    def add_noise(self, crop: np.ndarray, kind: str) -> np.ndarray:
        low, high = (3, 7) if kind == "speech" and self.names == ["one_of"] else (1, 1)
        crop_db = 10 * np.log10(np.mean(crop**2) + 1e-4)
        total = np.zeros_like(crop)
        for _ in range(self.rng.integers(low, high + 1)):
            noise, _ = soundfile.read(self.noises[kind][self.rng.integers(len(self.noises[kind]))])
            start = self.rng.integers(len(noise) - len(crop) + 1)
            noise = noise[start : start + len(crop)]
            noise_db = 10 * np.log10(np.mean(noise**2) + 1e-4)
            total += np.sqrt(10 ** ((crop_db - noise_db - self.rng.uniform(*SNR_DB[kind])) / 10)) * noise
        return crop + total
