"""How fast is training data made, and what does it cost?  python -m benchmarks.data_path [--json FILE]

Augmented crops for each second of one core's time, from WAV, FLAC and packed files, against the plain way:
read whole files in float64, convolve with scipy, one crop at a time. Synthetic audio of the usual sizes:
utterances and noises of 8 s, rooms of 0.25 to 1 s, one crop of 2 s from each utterance. Ratios are medians of
alternating rounds, in time of the process: what else the machine does matters little.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

from sslsv.config import DataConfig
from sslsv.data.augment import AugmentConfig
from sslsv.data.manifest import Manifest, read_train_lists
from sslsv.data.views import ViewMaker
from sslsv.prepare_data import pack

RATE, SECONDS, CROP = 16_000, 8.0, 32_000
UTTERANCES, NOISES, ROOMS, CROPS = 64, 32, 48, 512

RECIPES = {
    "room and noise on every view": AugmentConfig(strategy="reverb_and_noise"),
    "none, room, noise, music or babble of 3 to 7": AugmentConfig(
        strategy="none_or_one", speech_files=(3, 7)
    ),
    "noise on every view": AugmentConfig(strategy="noise"),
    "no augmentation": AugmentConfig(strategy="none"),
}
SNR_DB = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}


class Plain:
    """The plain way, as it is usually written: whole files, float64, one crop after the other."""

    def __init__(self, root: Path, config: AugmentConfig, seed: int) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.paths = sorted(map(str, (root / "voxceleb2").rglob("*.wav")))
        self.noises = {kind: sorted(map(str, (root / "musan_split" / kind).rglob("*"))) for kind in SNR_DB}
        self.rooms = sorted(map(str, (root / "simulated_rirs").rglob("*")))

    def batch(self) -> np.ndarray:
        views = np.empty((CROPS, CROP), dtype=np.float32)
        for i in range(CROPS):
            audio, _ = soundfile.read(self.paths[i % len(self.paths)])
            start = self.rng.integers(len(audio) - CROP + 1)
            views[i] = self.augment(audio[start : start + CROP])
        return views

    def augment(self, crop: np.ndarray) -> np.ndarray:
        if self.config.strategy == "reverb_and_noise":
            return self.add_noise(self.reverberate(crop), str(self.rng.choice(list(SNR_DB))))
        if self.config.strategy == "noise":
            return self.add_noise(crop, str(self.rng.choice(list(SNR_DB))))
        if self.config.strategy == "none_or_one":
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
        low, high = self.config.speech_files if kind == "speech" else (1, 1)
        crop_db = 10 * np.log10(np.mean(crop**2) + 1e-4)
        total = np.zeros_like(crop)
        for _ in range(self.rng.integers(low, high + 1)):
            noise, _ = soundfile.read(self.noises[kind][self.rng.integers(len(self.noises[kind]))])
            start = self.rng.integers(len(noise) - len(crop) + 1)
            noise = noise[start : start + len(crop)]
            noise_db = 10 * np.log10(np.mean(noise**2) + 1e-4)
            total += np.sqrt(10 ** ((crop_db - noise_db - self.rng.uniform(*SNR_DB[kind])) / 10)) * noise
        return crop + total


def write_corpus(root: Path, suffix: str) -> None:
    """Coloured noise with a slow envelope; rooms that decay by 60 dB within their length."""
    rng = np.random.default_rng(7)
    colour = signal.butter(2, 0.3)
    envelope = np.repeat(rng.uniform(0.05, 0.5, 80), round(RATE * SECONDS) // 80)

    def write(path: Path, audio: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(audio, -1, 1), RATE, subtype="PCM_16")

    lines = []
    for i in range(UTTERANCES):
        name = f"voxceleb2/id{i:05d}/video/00001{suffix}"
        write(root / name, 0.3 * envelope * signal.lfilter(*colour, rng.normal(size=len(envelope))))
        lines.append(f"id{i:05d} {name}\n")
    (root / "voxceleb2_train_list").write_text("".join(lines))
    for kind in SNR_DB:
        for i in range(NOISES):
            noise = 0.1 * signal.lfilter(*colour, rng.normal(size=len(envelope)))
            write(root / "musan_split" / kind / f"{i:04d}{suffix}", noise)
    for i in range(ROOMS):
        length = round(RATE * (0.25 + 0.75 * i / (ROOMS - 1)))
        decay = 10.0 ** (-3.0 * np.arange(length) / length)
        room = 0.2 * decay * rng.normal(size=length)
        room[20] = 0.9
        write(root / "simulated_rirs" / f"room{i:03d}.wav", room)


def makers(root: Path, manifest: Manifest, config: AugmentConfig, **settings: object) -> Callable[[], object]:
    """A function that makes the next batch."""
    data = DataConfig(root=str(root), augment=config, **settings)  # type: ignore[arg-type]
    maker = ViewMaker(manifest, (("views", 1, CROP / RATE),), data, seed=1)
    rows = {name: np.arange(CROPS) % len(manifest) for name in ("sample", "utterance", "partner")}
    epochs = iter(range(10**6))
    return lambda: maker.make_batch({**rows, "epoch": np.full(CROPS, next(epochs))})


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median microseconds per crop of each way, of process time and by the clock; the ways take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way()
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    scale = 1e6 / CROPS
    return {
        name: (scale * statistics.median(c for c, _ in pairs), scale * statistics.median(w for _, w in pairs))
        for name, pairs in taken.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (%(default)s)")
    given = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wav, flac, packed = (Path(folder) / name for name in ("wav", "flac", "packed"))
        write_corpus(wav, ".wav")
        write_corpus(flac, ".flac")
        pack.pack(wav, packed)
        manifests = {root: read_train_lists(root, ("voxceleb2_train_list",)) for root in (wav, flac)}
        print(f"{'recipe, from':58} {'us/crop':>8} {'by clock':>9} {'crops/core-s':>13} {'x plain':>8}")
        for recipe, config in RECIPES.items():
            ways: dict[str, Callable[[], object]] = {"plain, WAV": Plain(wav, config, 1).batch}
            ways["WAV"] = makers(wav, manifests[wav], config)
            ways["packed"] = makers(packed, manifests[wav], config)
            ways["FLAC"] = makers(flac, manifests[flac], config)
            if recipe == "no augmentation":
                ways["packed, speeds 0.9 and 1.1"] = makers(packed, manifests[wav], config, speeds=(0.9, 1.1))
            found = measure(ways, given.rounds)
            plain = found["plain, WAV"][0]
            print(recipe)
            for way, (cpu, wall) in found.items():
                print(f"    {way:54} {cpu:8.0f} {wall:9.0f} {1e6 / cpu:13.0f} {plain / cpu:8.1f}", flush=True)
            results[recipe] = {
                way: {"cpu_us_per_crop": cpu, "wall_us_per_crop": wall, "times_plain": plain / cpu}
                for way, (cpu, wall) in found.items()
            }
    if given.json:
        machine = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
        given.json.write_text(json.dumps({**machine, "rounds": given.rounds, "recipes": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
