"""Augmentation of other libraries, given crops that were read before; ours reads as well."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.naive_augmentation import CROP, SNR_DB, NaiveAugmentation
from benchmarks.row import Row, in_turns, speed_row

Augment = Callable[[np.ndarray], object]


def rows(
    recipe: str, ours: Callable[[], object], count: int, naive: NaiveAugmentation, pairs: int, *, is_one: bool
) -> Iterator[Row]:
    """Ours against each library, with a room and a noise on every crop, or one of five kinds."""
    crops = np.stack([soundfile.read(path, frames=CROP, dtype="float32")[0] for path in naive.paths])
    few = crops[: min(len(crops), count)]
    for library, build in (("SpeechBrain", speechbrain), ("audiomentations", audiomentations)):
        name, against = f"{recipe}, from WAV", f"{library}, ready crops"
        try:
            augment = build(naive, is_one)
        except (ImportError, AttributeError, OSError) as error:
            yield Row(name, against, 0, 0, "", skipped=f"{type(error).__name__}: {error}")
            continue
        times = in_turns(ours, lambda a=augment: a(few), pairs, time.process_time)
        yield speed_row(name, against, times, count, "crops/core-s", reference_amount=len(few), target=1.0)


def speechbrain(naive: NaiveAugmentation, is_one: bool) -> Augment:
    """AddReverb (one room for a batch, as it does it) and AddNoise, a batch at a time."""
    from speechbrain.augment.time_domain import AddNoise, AddReverb

    rooms = _speechbrain_list(naive.rooms)
    reverb = AddReverb(csv_file=rooms, reverb_sample_rate=16_000, clean_sample_rate=16_000)
    noises = {
        kind: AddNoise(csv_file=_speechbrain_list(files), snr_low=SNR_DB[kind][0], snr_high=SNR_DB[kind][1])
        for kind, files in naive.noises.items()
    }

    def noisy(batch: torch.Tensor, kind: str) -> torch.Tensor:
        # It adds one recording, so babble costs it less than ours.
        return noises[kind](batch, torch.ones(len(batch)))  # type: ignore[no-any-return]

    def augment(crops: np.ndarray) -> object:
        batch = torch.from_numpy(crops)
        if not is_one:
            return noisy(reverb(batch), str(naive.rng.choice(list(SNR_DB))))
        none, in_room, *rest = batch.chunk(5)
        return [none, reverb(in_room), *[noisy(part, k) for part, k in zip(rest, SNR_DB, strict=True)]]

    return augment


def _speechbrain_list(paths: list[str]) -> str:
    folder = Path(paths[0]).parent
    file = folder.with_name(f"{folder.name}.csv")
    lines = [f"{i},{soundfile.info(path).duration},{path},wav,\n" for i, path in enumerate(paths)]
    file.write_text("ID,duration,wav,wav_format,wav_opts\n" + "".join(lines))
    return str(file)


def audiomentations(naive: NaiveAugmentation, is_one: bool) -> Augment:
    """ApplyImpulseResponse and AddBackgroundNoise, a crop at a time, as it is used."""
    from audiomentations import AddBackgroundNoise, ApplyImpulseResponse, Compose, OneOf

    room = ApplyImpulseResponse(naive.rooms, p=1.0)
    noises = [
        AddBackgroundNoise(files, min_snr_db=SNR_DB[kind][0], max_snr_db=SNR_DB[kind][1], p=1.0)
        for kind, files in naive.noises.items()
    ]
    transform = OneOf([room, *noises], p=0.8) if is_one else Compose([room, OneOf(noises, p=1.0)])
    return lambda crops: [transform(samples=crop, sample_rate=16_000) for crop in crops]
