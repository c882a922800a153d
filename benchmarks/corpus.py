"""Write a synthetic corpus of the usual sizes in VoxCeleb's layout; speed does not depend on the content."""

from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

RATE, SECONDS = 16_000, 8.0
NOISES, ROOMS = 32, 48  # noises per kind, 8 s each; rooms of 0.25 to 1 s
KINDS = ("noise", "music", "speech")
LIST = "voxceleb2_train_list"


def write_corpus(root: Path, suffix: str, utterances: int) -> None:
    """Write coloured noise with a slow envelope, and rooms that decay by 60 dB within their length."""
    rng = np.random.default_rng(7)
    colour = signal.butter(2, 0.3)
    envelope = np.repeat(rng.uniform(0.05, 0.5, 80), round(RATE * SECONDS) // 80)

    def write(path: Path, audio: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(audio, -1, 1), RATE, subtype="PCM_16")

    lines = []
    for i in range(utterances):
        name = f"voxceleb2/id{i:05d}/video/00001{suffix}"
        write(root / name, 0.3 * envelope * signal.lfilter(*colour, rng.normal(size=len(envelope))))
        lines.append(f"id{i:05d} {name}\n")
    (root / LIST).write_text("".join(lines))
    for kind in KINDS:
        for i in range(NOISES):
            noise = 0.1 * signal.lfilter(*colour, rng.normal(size=len(envelope)))
            write(root / "musan_split" / kind / f"{i:04d}{suffix}", noise)
    for i in range(ROOMS):
        length = round(RATE * (0.25 + 0.75 * i / (ROOMS - 1)))
        decay = 10.0 ** (-3.0 * np.arange(length) / length)
        room = 0.2 * decay * rng.normal(size=length)
        room[20] = 0.9
        write(root / "simulated_rirs" / f"room{i:03d}.wav", room)
