"""Views: the augmented crops of a sample; each view depends only on (seed, epoch, utterance, view).

For validation, entire recordings pass through a simulated channel.
"""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import SAMPLE_RATE, AudioError, Recording, Samples, Waveform, to_waveform
from sslsv.data.augmentations.base import Augmenter
from sslsv.data.bank import Bank
from sslsv.data.draws import RandomStreams, crop_starts, disjoint_starts, name_key
from sslsv.data.lists import Manifest
from sslsv.data.recordings import Recordings, open_recordings
from sslsv.data.section import MAX_SPEED_DENOMINATOR, DataConfig, channel_of
from sslsv.data.speed import SpedUp

_TRIES = 20  # replacements of an unreadable utterance before the run stops


class ViewMaker:
    """Make the views of samples; holds the list, bank and settings, and is cheap to send to processes.

    `view_groups` are (name, count, seconds, is_clean). Views of a clean group are not augmented. If there is
    an augmented group of the same count and length, both are made from the same crops.
    `needs_labels` adds a column `speaker` to the batches: speakers, or classes if `data.speeds_are_classes`.
    With `are_disjoint`, the crops of an utterance overlap only if it is too short.
    """

    def __init__(
        self,
        manifest: Manifest,
        view_groups: Sequence[tuple[str, int, float, bool]],
        data: DataConfig,
        seed: int,
        needs_labels: bool = False,
        *,
        are_disjoint: bool = False,
    ) -> None:
        ends = list(accumulate(count for _, count, *_ in view_groups))
        # (name, its views, samples per view, is_clean); views are numbered through all groups of a sample.
        self.view_groups = [
            (name, range(end - count, end), round(seconds * SAMPLE_RATE), is_clean)
            for end, (name, count, seconds, is_clean) in zip(ends, view_groups, strict=True)
        ]
        self._num_views = ends[-1]
        augmented = {
            (len(views), size): views for _, views, size, is_clean in self.view_groups if not is_clean
        }
        # For each group: the views whose random crop positions it uses, and the length of a crop.
        self._places = [
            (augmented.get((len(views), size), views) if is_clean else views, size)
            for _, views, size, is_clean in self.view_groups
        ]
        self.needs_labels = needs_labels
        self.crops_are_disjoint = are_disjoint
        self.speeds = tuple(Fraction(speed).limit_denominator(MAX_SPEED_DENOMINATOR) for speed in data.speeds)
        self.speed_probability = data.speed_probability
        self._class_step = manifest.num_speakers if data.speeds_are_classes else 0
        # With two arrays, of bytes and integers, processes get a million paths without a million objects.
        self._paths = np.array([os.fsencode(path) for path in manifest.paths])
        self._speakers = manifest.speakers
        self._streams = RandomStreams(seed)
        self._recordings = open_recordings(data.root)
        self._bank = Bank(self._recordings, data.bank_cache_mb)
        self._augmenter = Augmenter(data.augment, self._bank)

    def make_batch(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the batch of rows of a Plan: int16 {group: (B, count, T)} and columns (B,) of int64.

        `sample` is copied from the rows. `utterance` is the utterance read: an unreadable utterance is
        replaced by a random one. `speaker`, if labels are needed, is its speaker s or, if speeds are classes,
        s + i * number of speakers for speed number i. `bad_utterance` is the replaced utterance and
        `bad_bank_file` the first unreadable noise or rir, -1 if there is none; `explain` tells why. Raises
        AudioError after 20 replacements in a row.
        """
        sources = list(zip(rows["epoch"].tolist(), rows["utterance"].tolist(), strict=True))
        crops, chosen = zip(*(self._read_crops(*source) for source in sources), strict=True)
        batch: dict[str, npt.NDArray[np.generic]] = {"sample": rows["sample"], "utterance": np.array(chosen)}
        bad_utterances = np.where(batch["utterance"] == rows["utterance"], -1, rows["utterance"])
        bad_files = np.full(len(sources), -1, dtype=np.int64)
        for name, group, num_samples, is_clean in self.view_groups:
            group_crops = [sample_crops[view] for sample_crops in crops for view in group]
            views = np.array(group_crops, dtype=np.int16).reshape(-1, num_samples)
            batch[name] = views.reshape(len(sources), len(group), num_samples)
            if is_clean:
                continue
            streams = [
                partial(self._streams.draws, *source, view=view) for source in sources for view in group
            ]
            for i, file in enumerate(self._augmenter.augment(views, streams)):
                if file >= 0 and bad_files[i // len(group)] < 0:
                    bad_files[i // len(group)] = file
        if self.needs_labels:
            numbers = [self._speed_number(epoch, utterance) for epoch, utterance in sources]
            batch["speaker"] = self._speakers[batch["utterance"]] + self._class_step * np.array(numbers)
        return batch | {"bad_utterance": bad_utterances, "bad_bank_file": bad_files}

    def explain(self, kind: Literal["utterances", "bank_files"], number: int) -> tuple[str, str]:
        """Read an unreadable utterance or bank file again; return its path and why it can't be read."""
        name = self._path(number) if kind == "utterances" else self._bank.files[number]
        path = self._recordings.location(name)
        try:
            with self._recordings.open(name) as recording:
                recording.read_whole()
                if kind == "bank_files":
                    recording.read_rir()  # Silence is an error in an rir, not in a noise.
        except AudioError as error:
            return path, str(error)
        return path, f"{path} could not be read during training, but can be now."

    def _path(self, utterance: int) -> str:
        return os.fsdecode(bytes(self._paths[utterance]))

    def _read_crops(self, epoch: int, utterance: int) -> tuple[list[Samples], int]:
        # Returns the crop of each view of a sample, and the number of the utterance that was read.
        draws = partial(self._streams.draws, epoch, utterance)
        speed = self.speeds[self._speed_number(epoch, utterance)]
        # Names with a blank can't equal an augmentation's. Every view draws a position, even a clean one that
        # reuses another's, so that later draws don't shift. `order` is for `disjoint_starts`.
        crop_rng, replacement_rng = draws("sample crops"), draws("sample replacement")
        order, *fractions = [crop_rng.fraction() for _ in range(1 + self._num_views)]
        chosen, reasons = utterance, list[str]()
        for _ in range(_TRIES + 1):
            try:
                recording = self._recordings.open(self._path(chosen))
                with recording if speed == 1 else SpedUp(recording, speed) as recording:
                    return self._cut(recording, fractions, order), chosen
            except AudioError as error:
                reasons.append(str(error))
            chosen = replacement_rng.below(len(self._paths))
        raise AudioError(f"{len(reasons)} recordings in a row cannot be read; the first: {reasons[0]}")

    def _speed_number(self, epoch: int, utterance: int) -> int:
        if len(self.speeds) == 1:
            return 0
        draws = self._streams.draws(epoch, utterance, "sample speed")
        number = draws.below(len(self.speeds))
        return number if draws.fraction() < self.speed_probability else 0

    def _cut(self, recording: Recording, fractions: list[float], order: float) -> list[Samples]:
        # Returns the crops of all views, in the order of their numbers.
        crops: list[Samples] = []
        for views, length in self._places:
            view_fractions = fractions[views.start : views.stop]
            if self.crops_are_disjoint:
                starts = disjoint_starts(recording.num_samples, length, view_fractions, order)
            else:
                starts = crop_starts(recording.num_samples, length, view_fractions)
            crops += [recording.read_int16(start, length) for start in starts]
        return crops


class ChannelSimulator:
    """Read recordings, each through its own room, noise and level, drawn from (seed, name, version).

    Without this, the channel would reveal the speaker if each speaker had only one session.
    """

    def __init__(self, recordings: Recordings, data: DataConfig, seed: int) -> None:
        self._recordings, self._streams = recordings, RandomStreams(seed)
        self._augmenter = Augmenter(channel_of(data.augment), Bank(recordings, data.bank_cache_mb))

    def read(self, name: str, version: int) -> Waveform:
        """Return an entire recording (T,) of full scale 1; raises AudioError."""
        with self._recordings.open(name) as recording:
            views = np.array([recording.read_int16(0, recording.num_samples)])
        draws = partial(self._streams.draws, version, name_key(os.fsencode(name), 8))
        self._augmenter.augment(views, [draws])
        return to_waveform(views[0])
