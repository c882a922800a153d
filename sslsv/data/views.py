"""Views: the crops of a sample, cut and augmented, each pure in (seed, epoch, utterance, view)."""

import itertools
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import SAMPLE_RATE, AudioError, Recording
from sslsv.data.augment import augment
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws, RandomStreams
from sslsv.data.manifest import Manifest
from sslsv.data.places import crop_start, disjoint_starts
from sslsv.data.rounding import Samples
from sslsv.data.speed import SpedUp

if TYPE_CHECKING:
    from sslsv.config import DataConfig

Views = dict[str, Samples]

# What a random stream is for: the second word of its counter.  Views come after these.
_SPEED, _CROPS, _REPLACEMENT, _FIRST_VIEW = 0, 1, 2, 16
_TRIES = 20  # replacements of an unreadable utterance before the run stops


class ViewMaker:
    """Makes the views of samples; holds the list, the banks and the settings, and is cheap to send.

    `view_groups` are (name, count, seconds). With pairs (partner != utterance) the views of a group come from
    the utterance and its partner in turn. `crop_overlap` "disjoint" keeps the crops of a group from
    overlapping wherever the utterance is long enough. Raises ValueError and FileNotFoundError for settings
    that cannot work.
    """

    def __init__(
        self,
        manifest: Manifest,
        view_groups: Sequence[tuple[str, int, float]],
        data: "DataConfig",
        seed: int,
    ) -> None:
        self.view_groups = tuple(
            (name, count, round(seconds * SAMPLE_RATE)) for name, count, seconds in view_groups
        )
        self.crops_are_disjoint = data.crop_overlap == "disjoint"
        self.speeds = tuple(Fraction(speed).limit_denominator(20) for speed in data.speeds)
        self.augment_config = data.augment
        # Byte strings and integers in two arrays: a million paths reach a process without a million objects.
        self._names = np.array([os.fsencode(path) for path in manifest.paths])
        self._speakers = manifest.speakers
        self._streams = RandomStreams(seed)
        self._bank = Bank(data.root, data.augment)
        self._recordings = self._bank.recordings
        # Of each view of a sample: the samples of its crop.
        self._lengths = [num_samples for _, count, num_samples in self.view_groups for _ in range(count)]

    def path(self, utterance: int) -> str:
        """Return the absolute path of an utterance."""
        return self._recordings.location(self._name(utterance))

    def make(self, epoch: int, utterance: int, partner: int) -> tuple[Views, int]:
        """Return the int16 views {group: (count, T)} of a sample, and the unreadable utterance or -1."""
        row = {"sample": 0, "epoch": epoch, "utterance": utterance, "partner": partner}
        batch = self.make_batch({name: np.array([value]) for name, value in row.items()})
        views: Views = {name: batch[name][0] for name, _, _ in self.view_groups}
        return views, int(batch["bad_utterance"][0])

    def make_batch(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the batch of rows of a Plan: int16 {group: (B, count, T)} and three columns (B,).

        `sample` is the row's; `bad_utterance` and `bad_bank_file` are the first unreadable ones that were met
        for it, or -1: see `path` and `explain`, `bank_path` and `explain_bank_file`.

        An unreadable utterance is replaced by one drawn for this sample: of the same speaker if the sample is
        a pair of two, else any. Raises AudioError after 20 replacements in a row.
        """
        size = len(rows["sample"])
        batch: Views = {
            name: np.empty((size, count, num_samples), dtype=np.int16)
            for name, count, num_samples in self.view_groups
        }
        bad = np.full((2, size), -1, dtype=np.int64)
        sources = list(zip(*(rows[name].tolist() for name in ("epoch", "utterance", "partner")), strict=True))
        crops: list[list[Samples]] = []  # of each sample, one for each view
        for i, source in enumerate(sources):
            of_sample, bad[0, i] = self._read_crops(*source)
            crops.append(of_sample)
        first = 0
        for name, count, num_samples in self.view_groups:
            group = slice(first, first + count)
            draws = [
                Draws(self._streams.stream(epoch, utterance, _FIRST_VIEW + view))
                for epoch, utterance, _ in sources
                for view in range(*group.indices(group.stop))
            ]
            of_group = [crop for of_sample in crops for crop in of_sample[group]]
            views = batch[name].reshape(-1, num_samples)
            augment(of_group, self.augment_config, self._bank, draws, views)
            for i, each in enumerate(draws):
                if each.bad_files and bad[1, i // count] < 0:
                    bad[1, i // count] = each.bad_files[0]
            first += count
        samples = np.asarray(rows["sample"], dtype=np.int64)
        return {**batch, "sample": samples, "bad_utterance": bad[0], "bad_bank_file": bad[1]}

    def explain(self, utterance: int) -> str:
        """Return why an utterance is unreadable, in a sentence, by reading all of it again."""
        try:
            self._recordings.read_whole(self._name(utterance))
        except AudioError as error:
            return str(error)
        return f"{self.path(utterance)} could not be read during training, but can be now."

    def bank_path(self, file: int) -> str:
        """Return the absolute path of a noise or room."""
        return self._recordings.location(self._bank.files()[file])

    def explain_bank_file(self, file: int) -> str:
        """Return why a noise or room is unusable, in a sentence, by reading all of it again."""
        return self._bank.explain(file)

    def _name(self, utterance: int) -> str:
        return os.fsdecode(bytes(self._names[utterance]))

    def _read_crops(self, epoch: int, utterance: int, partner: int) -> tuple[list[Samples], int]:
        # The crops of all views of a sample, and the first unreadable utterance, or -1.
        speed = self.speeds[0]
        if len(self.speeds) > 1:
            speed = self.speeds[Draws(self._streams.stream(epoch, utterance, _SPEED)).below(len(self.speeds))]
        # All fractions are drawn, whatever is used of them: a view's place depends on nothing else.
        stream = self._streams.stream(epoch, utterance, _CROPS)
        order, *fractions = itertools.islice(stream, 1 + len(self._lengths))
        chosen, first_bad = [utterance] if partner == utterance else [utterance, partner], -1
        bad: set[int] = set()
        crops: dict[int, Samples] = {}
        owners = [i % len(chosen) for _, count, _ in self.view_groups for i in range(count)]
        for role in range(len(chosen)):
            mine = [view for view, owner in enumerate(owners) if owner == role]
            replacements = Draws(self._streams.stream(epoch, utterance, _REPLACEMENT + role))
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
        if self.crops_are_disjoint:
            starts = self._spread(recording.num_samples, views, fractions, order)
        else:
            starts = {
                view: crop_start(recording.num_samples, self._lengths[view], fractions[view])
                for view in views
            }
        return {view: recording.read_int16(start, self._lengths[view]) for view, start in starts.items()}

    def _spread(
        self, num_samples: int, views: list[int], fractions: list[float], order: float
    ) -> dict[int, int]:
        starts: dict[int, int] = {}
        first = 0
        for _, count, length in self.view_groups:
            mine = [view for view in views if first <= view < first + count]
            places = disjoint_starts(num_samples, length, [fractions[view] for view in mine], order)
            starts |= dict(zip(mine, places, strict=True))
            first += count
        return starts
