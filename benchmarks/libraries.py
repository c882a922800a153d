"""Measure the data paths of other toolkits, from WAV files to augmented crops, with their own modules.

Each toolkit gets the same files, rooms, noises and SNRs as sslsv. wespeaker's package has no data path. The
data path of the original sslsv and of voxceleb_trainer is the naive reference.
"""

import functools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from benchmarks.naive_augmentation import CROP, SNR_DB, NaiveAugmentation
from benchmarks.row import Row, in_turns, speed_row

MakeCrops = Callable[[list[str]], object]


def rows(
    recipe: str, ours: Callable[[], object], count: int, naive: NaiveAugmentation, pairs: int, *, is_one: bool
) -> Iterator[Row]:
    """Compare with each toolkit: reverberation and noise on every crop, or (`is_one`) one of five kinds."""
    paths = naive.paths[: min(len(naive.paths), count)]
    for toolkit, build in (
        ("SpeechBrain", speechbrain),
        ("3D-Speaker", speakerlab),
        ("audiomentations", audiomentations),
    ):
        name, peer = f"{recipe}, from WAV", f"{toolkit}, from WAV"
        try:
            make_crops = build(naive, is_one)
        except (ImportError, AttributeError, OSError) as error:
            yield Row(name, peer, 0, 0, "", skipped=f"{type(error).__name__}: {error}")
            continue
        times = in_turns(ours, lambda m=make_crops: m(paths), pairs, time.process_time)
        yield speed_row(name, peer, times, count, "crops/core-s", reference_amount=len(paths), target=1.0)


def speechbrain(naive: NaiveAugmentation, is_one: bool) -> MakeCrops:
    """Use `read_audio` on a segment, as in its VoxCeleb recipe, then AddReverb and AddNoise on the batch."""
    from speechbrain.augment.time_domain import AddNoise, AddReverb
    from speechbrain.dataio.dataio import read_audio

    rooms = _speechbrain_list(naive.rooms)
    reverb = AddReverb(csv_file=rooms, reverb_sample_rate=16_000, clean_sample_rate=16_000)
    noises = {
        kind: AddNoise(csv_file=_speechbrain_list(files), snr_low=SNR_DB[kind][0], snr_high=SNR_DB[kind][1])
        for kind, files in naive.noises.items()
    }

    def noisy(batch: torch.Tensor, kind: str) -> torch.Tensor:
        # AddNoise adds only one recording, so its babble costs less than ours.
        return noises[kind](batch, torch.ones(len(batch)))  # type: ignore[no-any-return]

    def make_crops(paths: list[str]) -> object:
        starts = [_start(path) for path in paths]
        crops = [
            read_audio({"file": path, "start": start, "stop": start + CROP})
            for path, start in zip(paths, starts, strict=True)
        ]
        batch = torch.stack(crops)
        if not is_one:  # AddReverb uses one room for the entire batch
            return noisy(reverb(batch), str(naive.rng.choice(list(SNR_DB))))
        clean, in_room, *rest = batch.chunk(5)
        return [clean, reverb(in_room), *[noisy(part, k) for part, k in zip(rest, SNR_DB, strict=True)]]

    return make_crops


def speakerlab(naive: NaiveAugmentation, is_one: bool) -> MakeCrops:
    """Use WavReader, then NoiseReverbCorrupter, on one crop at a time.

    They call `torchaudio.load`, which now needs another package, so it is replaced by soundfile.
    """
    from speakerlab.process import augmentation, processor

    torchaudio = SimpleNamespace(load=_load)
    augmentation.torchaudio = processor.torchaudio = torchaudio
    reader = processor.WavReader(duration=CROP / 16_000)
    corrupter = augmentation.NoiseReverbCorrupter
    reverb = corrupter(reverb_prob=1.0, reverb_file=_kaldi_list(naive.rooms))
    noises = [
        corrupter(
            noise_prob=1.0,
            noise_file=_kaldi_list(files),
            noise_snr_low=SNR_DB[kind][0],
            noise_snr_high=SNR_DB[kind][1],
        )
        for kind, files in naive.noises.items()
    ]

    def make_crop(path: str) -> object:
        crop, _ = reader(path)
        if not is_one:
            return random.choice(noises)(reverb(crop))
        corrupt = random.choice([None, reverb, *noises])
        return crop if corrupt is None else corrupt(crop)

    return lambda paths: [make_crop(path) for path in paths]


def audiomentations(naive: NaiveAugmentation, is_one: bool) -> MakeCrops:
    """Read segments by soundfile; apply ApplyImpulseResponse and AddBackgroundNoise to one crop at a time."""
    from audiomentations import AddBackgroundNoise, ApplyImpulseResponse, Compose, OneOf

    room = ApplyImpulseResponse(naive.rooms, p=1.0)
    noises = [
        AddBackgroundNoise(files, min_snr_db=SNR_DB[kind][0], max_snr_db=SNR_DB[kind][1], p=1.0)
        for kind, files in naive.noises.items()
    ]
    transform = OneOf([room, *noises], p=0.8) if is_one else Compose([room, OneOf(noises, p=1.0)])

    def make_crop(path: str) -> object:
        crop, _ = soundfile.read(path, start=_start(path), frames=CROP, dtype="float32")
        return transform(samples=crop, sample_rate=16_000)

    return lambda paths: [make_crop(path) for path in paths]


def _start(path: str) -> int:
    return random.randint(0, _num_samples(path) - CROP)


@functools.cache
def _num_samples(path: str) -> int:
    return soundfile.info(path).frames  # type: ignore[no-any-return]  # toolkits' lists have lengths


def _load(path: str) -> tuple[torch.Tensor, int]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(audio.T)), rate


def _speechbrain_list(paths: list[str]) -> str:
    lines = [f"{i},{soundfile.info(path).duration},{path},wav,\n" for i, path in enumerate(paths)]
    return _write(paths, ".csv", ["ID,duration,wav,wav_format,wav_opts\n", *lines])


def _kaldi_list(paths: list[str]) -> str:
    return _write(paths, ".scp", [f"{i} {path}\n" for i, path in enumerate(paths)])


def _write(paths: list[str], suffix: str, lines: list[str]) -> str:
    folder = Path(paths[0]).parent
    file = folder.with_name(f"{folder.name}{suffix}")
    file.write_text("".join(lines))
    return str(file)
