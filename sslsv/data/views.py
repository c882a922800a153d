"""Views: the crops of a sample, cut and augmented, each pure in (seed, epoch, utterance, view)."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioFile,
    Waveform,
    read_whole,
    to_int16,
)
from sslsv.data.augment import Bank, augment
from sslsv.data.manifest import Manifest

if TYPE_CHECKING:
    from sslsv.config import DataConfig

Views = dict[str, npt.NDArray[np.int16]]

# What a random stream is for: the second word of its counter.  Views come after these.
_SPEED, _CROPS, _REPLACEMENT, _FIRST_VIEW = 0, 1, 2, 16
_TRIES = 20  # replacements of an unreadable utterance before the run stops


def random_stream(seed: int, epoch: int, utterance: int, purpose: int) -> np.random.Generator:
    """Return the counter-based generator of one purpose of one utterance in one epoch; no state is shared."""
    return np.random.Generator(np.random.Philox(counter=[0, purpose, utterance, epoch], key=[seed, 0]))


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
        self.root = os.path.abspath(data.root)
        self.view_groups = tuple(
            (name, count, round(seconds * SAMPLE_RATE)) for name, count, seconds in view_groups
        )
        self.seed = seed
        self.crops_are_disjoint = data.crop_overlap == "disjoint"
        self.speeds = tuple(Fraction(speed).limit_denominator(20) for speed in data.speeds)
        self.augment_config = data.augment
        # Byte strings and integers in two arrays: a million paths reach a process without a million objects.
        self._paths = np.array([os.fsencode(path) for path in manifest.paths])
        self._speakers = manifest.speakers
        self._bank = Bank(data.root, data.augment)

    def path(self, utterance: int) -> str:
        """Return the absolute path of an utterance."""
        return os.path.join(self.root, os.fsdecode(bytes(self._paths[utterance])))

    def make(self, epoch: int, utterance: int, partner: int) -> tuple[Views, int]:
        """Return the int16 views {group: (count, T)} of a sample, and the unreadable utterance or -1.

        An unreadable utterance is replaced by one drawn for this sample: of the same speaker if the sample is
        a pair of two, else any. Raises AudioError after 20 replacements in a row.
        """
        speeds = random_stream(self.seed, epoch, utterance, _SPEED)
        speed = self.speeds[int(speeds.integers(len(self.speeds)))]
        sources = (utterance,) if partner == utterance else (utterance, partner)
        crops, bad = self._read_crops(epoch, sources, speed)
        views: Views = {}
        number = _FIRST_VIEW
        for name, count, num_samples in self.view_groups:
            views[name] = np.empty((count, num_samples), dtype=np.int16)
            for i in range(count):
                rng = random_stream(self.seed, epoch, utterance, number)
                views[name][i] = to_int16(
                    augment(crops[number - _FIRST_VIEW], self.augment_config, self._bank, rng)
                )
                number += 1
        return views, bad

    def make_batch(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the batch of rows of a Plan: int16 {group: (B, count, T)}, `sample` and `bad_utterance`."""
        size = len(rows["sample"])
        batch: dict[str, npt.NDArray[np.generic]] = {
            name: np.empty((size, count, num_samples), dtype=np.int16)
            for name, count, num_samples in self.view_groups
        }
        bad = np.full(size, -1, dtype=np.int64)
        for i in range(size):
            views, bad[i] = self.make(
                int(rows["epoch"][i]), int(rows["utterance"][i]), int(rows["partner"][i])
            )
            for name, view in views.items():
                batch[name][i] = view
        return {**batch, "sample": np.asarray(rows["sample"], dtype=np.int64), "bad_utterance": bad}

    def explain(self, utterance: int) -> str:
        """Return why an utterance is unreadable, in a sentence, by reading all of it again."""
        try:
            read_whole(self.path(utterance))
        except AudioError as error:
            return str(error)
        return f"{self.path(utterance)} could not be read during training, but can be now."

    def _read_crops(
        self, epoch: int, sources: tuple[int, ...], speed: Fraction
    ) -> tuple[list[Waveform], int]:
        owners = [i % len(sources) for _, count, _ in self.view_groups for i in range(count)]
        crops: dict[int, Waveform] = {}
        chosen, first_bad = list(sources), -1
        for role in range(len(sources)):
            mine = [view for view, owner in enumerate(owners) if owner == role]
            replacements = random_stream(self.seed, epoch, sources[0], _REPLACEMENT + role)
            for attempt in range(_TRIES + 1):
                try:
                    crops |= self._cut(epoch, sources[0], chosen[role], mine, speed)
                    break
                except AudioError as error:
                    if attempt == _TRIES:
                        raise AudioError(
                            f"{attempt + 1} recordings in a row cannot be read; the last: {error}"
                        ) from error
                first_bad = chosen[role] if first_bad < 0 else first_bad
                chosen[role] = self._draw_replacement(replacements, chosen, role)
        return [crops[view] for view in range(len(owners))], first_bad

    def _draw_replacement(self, rng: np.random.Generator, chosen: list[int], role: int) -> int:
        if len(chosen) == 2:
            others = np.flatnonzero(self._speakers == self._speakers[chosen[role]])
            others = others[~np.isin(others, chosen)]
            if len(others):
                return int(others[rng.integers(len(others))])
        return int(rng.integers(len(self._paths)))

    def _cut(
        self, epoch: int, utterance: int, source: int, views: list[int], speed: Fraction
    ) -> dict[int, Waveform]:
        lengths = [num_samples for _, count, num_samples in self.view_groups for _ in range(count)]
        # All fractions are drawn, whatever is used of them: a view's place depends on nothing else.
        *fractions, order = (
            random_stream(self.seed, epoch, utterance, _CROPS).random(len(lengths) + 1).tolist()
        )
        with AudioFile(self.path(source), speed) as file:
            if self.crops_are_disjoint:
                starts = self._spread(file.num_samples, views, fractions, order)
            else:
                starts = {
                    view: crop_start(file.num_samples, lengths[view], fractions[view]) for view in views
                }
            return {view: file.read(start, lengths[view]) for view, start in starts.items()}

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


def crop_start(num_samples: int, crop_samples: int, fraction: float) -> int:
    """Return the start of a crop at a fraction in [0, 1) of all its places; 0 if the utterance is shorter."""
    return int(fraction * max(1, num_samples - crop_samples + 1))


def disjoint_starts(
    num_samples: int, crop_samples: int, fractions: Sequence[float], order: float
) -> list[int]:
    """Return starts of crops that do not overlap, or overlap as little as possible in a short utterance.

    Two crops: the gap is uniform, then the place of the pair is; `order` in [0, 1) below a half swaps them.
    More crops: uniform over all arrangements without overlap, rotated by `order`.
    """
    count = len(fractions)
    slack = num_samples - count * crop_samples
    if count < 2:
        return [crop_start(num_samples, crop_samples, fraction) for fraction in fractions]
    if slack < 0:
        room = max(0, num_samples - crop_samples)
        starts = [room * i // (count - 1) for i in range(count)]
    elif count == 2:
        gap = int(fractions[0] * (slack + 1))
        first = int(fractions[1] * (slack - gap + 1))
        starts = [first, first + crop_samples + gap]
    else:
        offsets = sorted(int(fraction * (slack + 1)) for fraction in fractions)
        starts = [offset + i * crop_samples for i, offset in enumerate(offsets)]
    turn = int(order * count)
    return starts[turn:] + starts[:turn]
