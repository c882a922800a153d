"""Views: the crops of a sample, cut and augmented, each pure in (seed, epoch, utterance, view)."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import SAMPLE_RATE, AudioError, Recording, Samples
from sslsv.data.augmentations.base import Augmenter
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws, RandomStreams, crop_start, disjoint_starts
from sslsv.data.lists import Manifest
from sslsv.data.recordings import open_recordings
from sslsv.data.section import MAX_SPEED_DENOMINATOR, DataConfig
from sslsv.data.speed import SpedUp

Views = dict[str, Samples]

_TRIES = 20  # replacements of an unreadable utterance before the run stops


class ViewMaker:
    """Makes the views of samples; holds the list, the bank and the settings, and is cheap to send.

    `view_groups` are (name, count, seconds, is_clean); the views of a clean group are crops as they are. With
    pairs (partner != utterance) the views of a group come from the utterance and its partner in turn. A
    `crop_overlap` of "disjoint" keeps the crops of a group from overlapping wherever the utterance is long
    enough. `needs_labels` adds the speakers to the batches. Raises ValueError and FileNotFoundError for
    settings that cannot work.
    """

    def __init__(
        self,
        manifest: Manifest,
        view_groups: Sequence[tuple[str, int, float, bool]],
        data: DataConfig,
        seed: int,
        needs_labels: bool = False,
    ) -> None:
        self.view_groups = tuple(
            (name, count, round(seconds * SAMPLE_RATE), is_clean)
            for name, count, seconds, is_clean in view_groups
        )
        self.needs_labels = needs_labels
        self.crops_are_disjoint = data.crop_overlap == "disjoint"
        self.speeds = tuple(Fraction(speed).limit_denominator(MAX_SPEED_DENOMINATOR) for speed in data.speeds)
        # Byte strings and integers in two arrays: a million paths reach a process without a million objects.
        self._names = np.array([os.fsencode(path) for path in manifest.paths])
        self._speakers = manifest.speakers
        self._streams = RandomStreams(seed)
        self._recordings = open_recordings(data.root)
        self._bank = Bank(self._recordings, data.bank_cache_mb)
        self._augmenter = Augmenter(data.augment, self._bank)
        self._lengths = [samples for _, count, samples, _ in self.view_groups for _ in range(count)]

    def make_batch(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the batch of rows of a Plan: int16 {group: (B, count, T)} and columns (B,) of int64.

        `sample` and `utterance` are the row's; `speaker` is its utterance's, if labels are needed.
        `bad_utterance` and `bad_bank_file` are the first unreadable ones that were met for it, or -1: see
        `explain`. An unreadable utterance is replaced by one drawn for this sample: of the same speaker if
        the sample is a pair of two, else any. Raises AudioError after 20 replacements in a row.
        """
        sources = list(zip(*(rows[name].tolist() for name in ("epoch", "utterance", "partner")), strict=True))
        bad = np.full((2, len(sources)), -1, dtype=np.int64)
        crops: list[list[Samples]] = []  # of each sample, one for each view
        for i, source in enumerate(sources):
            of_sample, bad[0, i] = self._read_crops(*source)
            crops.append(of_sample)
        batch: dict[str, npt.NDArray[np.generic]] = {}
        first = 0
        for name, count, num_samples, is_clean in self.view_groups:
            group = range(first, first + count)
            first += count
            views = np.empty((len(sources) * count, num_samples), dtype=np.int16)
            of_group = [of_sample[view] for of_sample in crops for view in group]
            if is_clean:
                np.stack(of_group, out=views)
            else:
                streams = [
                    partial(self._streams.draws, epoch, utterance, view=view)
                    for epoch, utterance, _ in sources
                    for view in group
                ]
                for i, file in enumerate(self._augmenter.augment(of_group, streams, views)):
                    if file >= 0 and bad[1, i // count] < 0:
                        bad[1, i // count] = file
            batch[name] = views.reshape(len(sources), count, num_samples)
        columns = {name: np.asarray(rows[name], dtype=np.int64) for name in ("sample", "utterance")}
        if self.needs_labels:
            columns["speaker"] = self._speakers[columns["utterance"]]
        return {**batch, **columns, "bad_utterance": bad[0], "bad_bank_file": bad[1]}

    def explain(self, kind: Literal["utterances", "bank_files"], number: int) -> tuple[str, str]:
        """Return the path of an unreadable utterance or file of the bank, and why, by reading it again."""
        if kind == "bank_files":
            return self._recordings.location(self._bank.files[number]), self._bank.explain(number)
        path = self._recordings.location(self._name(number))
        try:
            self._recordings.read_whole(self._name(number))
        except AudioError as error:
            return path, str(error)
        return path, f"{path} could not be read during training, but can be now."

    def _name(self, utterance: int) -> str:
        return os.fsdecode(bytes(self._names[utterance]))

    def _read_crops(self, epoch: int, utterance: int, partner: int) -> tuple[list[Samples], int]:
        # The crops of all views of a sample, and the first unreadable utterance, or -1.
        # A blank keeps the purposes of a sample apart from the names of augmentations.
        draws = partial(self._streams.draws, epoch, utterance)
        speed = self.speeds[draws("sample speed").below(len(self.speeds)) if len(self.speeds) > 1 else 0]
        # All fractions are drawn, whatever is used of them: a view's place depends on nothing else.
        order, *fractions = draws("sample crops").fractions(1 + len(self._lengths))
        chosen, first_bad = [utterance] if partner == utterance else [utterance, partner], -1
        bad: set[int] = set()
        crops: dict[int, Samples] = {}
        owners = [i % len(chosen) for _, count, *_ in self.view_groups for i in range(count)]
        for role in range(len(chosen)):
            mine = [view for view, owner in enumerate(owners) if owner == role]
            replacements = draws("sample replacement", view=role)
            for attempt in range(_TRIES + 1):
                try:
                    with self._open(chosen[role], speed) as recording:
                        crops |= self._cut(recording, mine, fractions, order)
                    break
                except AudioError as error:
                    if attempt == _TRIES:
                        raise AudioError(
                            f"{attempt + 1} recordings in a row cannot be read; the last: {error}"
                        ) from error
                first_bad = chosen[role] if first_bad < 0 else first_bad
                bad.add(chosen[role])
                chosen = self._replaced(replacements, chosen, role, bad)
        return [crops[view] for view in range(len(owners))], first_bad

    def _open(self, utterance: int, speed: Fraction) -> Recording:
        recording = self._recordings.open(self._name(utterance))
        return recording if speed == 1 else SpedUp(recording, speed)

    def _replaced(self, draws: Draws, chosen: list[int], role: int, bad: set[int]) -> list[int]:
        # A pair stays one of one speaker: else a third utterance, else its good one twice, else another's.
        if len(chosen) == 1:
            return [draws.below(len(self._names))]
        others = np.flatnonzero(self._speakers == self._speakers[chosen[role]])
        others = others[~np.isin(others, [*chosen, *bad])]
        if len(others):
            new = int(others[draws.below(len(others))])
            return [new if i == role else old for i, old in enumerate(chosen)]
        partner = chosen[1 - role]
        return [draws.below(len(self._names)) if partner in bad else partner] * 2

    def _cut(
        self, recording: Recording, views: list[int], fractions: list[float], order: float
    ) -> dict[int, Samples]:
        starts: dict[int, int] = {}
        first = 0
        for _, count, length, _ in self.view_groups:
            mine = [view for view in views if first <= view < first + count]
            places = [fractions[view] for view in mine]
            first += count
            if self.crops_are_disjoint:
                found = disjoint_starts(recording.num_samples, length, places, order)
            else:
                found = [crop_start(recording.num_samples, length, place) for place in places]
            starts |= dict(zip(mine, found, strict=True))
        return {view: recording.read_int16(start, self._lengths[view]) for view, start in starts.items()}
