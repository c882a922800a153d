"""Measure how fast training data is made, in augmented crops per core-second.

Compares WAV, FLAC and packed files with the naive reference. The audio is synthetic and of the usual sizes,
with one crop of 2 s per utterance of 8 s. Times are process times, so other load has little effect.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import libraries
from benchmarks.corpus import LIST, write_corpus
from benchmarks.naive_augmentation import CROP, NaiveAugmentation
from benchmarks.row import Row, Settings, in_turns, speed_row
from sslsv.data.lists import Manifest, read_train_lists
from sslsv.data.section import DataConfig, augmentation_settings
from sslsv.data.views import ViewMaker
from sslsv.prepare_data import pack

RATE = 16_000
UTTERANCES = 64
UNIT = "crops/core-s"
REVERB, NOISE = augmentation_settings("reverb"), augmentation_settings("noise")
BABBLE = {"name": "noise", "speech_files": [3, 7]}
NONE_OR_ONE = {"probability": 0.8, "choices": [{"name": "reverb"}, BABBLE, BABBLE, BABBLE]}
RECIPES: dict[str, tuple[Any, ...]] = {
    "room and noise on every view": (REVERB, NOISE),
    "none, room, noise, music or babble of 3 to 7": (augmentation_settings("one_of", **NONE_OR_ONE),),
    "noise on every view": (NOISE,),
    "no augmentation": (),
}
BOTH, ONE, *_ = RECIPES
TARGETS = {
    (BOTH, "WAV"): 5.5,
    (BOTH, "shards"): 6.5,
    (ONE, "WAV"): 10.0,
    (ONE, "shards"): 10.0,
}


def rows(settings: Settings) -> Iterator[Row]:
    """Compare every recipe from every kind of file with the naive reference from WAV, then with libraries."""
    # Ours makes blocks of the usual size; the naive reference can be measured on fewer crops.
    count, naive_count, pairs = (32, 8, 2) if settings.is_quick else (1024, 160, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for the libraries too, because process time includes all threads
    with tempfile.TemporaryDirectory() as folder:
        roots = {name: Path(folder) / name for name in ("WAV", "FLAC", "shards")}
        for name in ("WAV", "FLAC"):
            write_corpus(roots[name], f".{name.lower()}", UTTERANCES)
        pack.pack(roots["WAV"], roots["shards"])
        manifest = read_train_lists(roots["WAV"], (LIST,))
        manifests = {"WAV": manifest, "shards": manifest, "FLAC": read_train_lists(roots["FLAC"], (LIST,))}
        limit = f"plain copy {copies_per_second(count):,.0f}"
        for recipe, config in RECIPES.items():
            naive = NaiveAugmentation(roots["WAV"], config, 1)
            for source, root in roots.items():
                if source == "FLAC" and recipe != BOTH:
                    continue  # the augmentation does not change the cost of decoding
                ours = batches(root, manifests[source], config, count)
                times = in_turns(ours, lambda n=naive, k=naive_count: n.batch(k), pairs, time.process_time)
                yield speed_row(
                    f"{recipe}, from {source}",
                    "naive, from WAV",
                    times,
                    count,
                    UNIT,
                    reference_amount=naive_count,
                    target=TARGETS.get((recipe, source)),
                    limit=limit,
                )
            if recipe in (BOTH, ONE):
                ours = batches(roots["WAV"], manifest, config, count)
                yield from libraries.rows(recipe, ours, count, naive, pairs, is_one=recipe == ONE)
    torch.set_num_threads(threads)


def batches(root: Path, manifest: Manifest, config: tuple[Any, ...], count: int) -> Callable[[], object]:
    """Return a function that makes the next batch of `count` crops, with new random numbers."""
    maker = ViewMaker(
        manifest, (("views", 1, CROP / RATE, False),), DataConfig(root=str(root), augment=config), seed=1
    )
    plan = {name: np.arange(count) % len(manifest) for name in ("sample", "utterance")}
    epochs = iter(range(10**6))
    return lambda: maker.make_batch({**plan, "epoch": np.full(count, next(epochs))})


def copies_per_second(count: int) -> float:
    """Return the int16 crops per second that one core can copy, an upper limit for reading."""
    source = np.ones((count, CROP), dtype=np.int16)
    target = np.empty_like(source)
    np.copyto(target, source)
    started = time.process_time()
    for _ in range(10):
        np.copyto(target, source)
    return 10 * count / max(time.process_time() - started, 1e-9)
