"""The training stream: which utterances make sample k of the run, a pure function of (seed, k)."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Rows = dict[str, Indices]


class Plan:
    """Order all samples of a run, epoch after epoch, in global batches of `batch_size`.

    `speakers` (N,) gives the speaker of each utterance. With "same_utterance" the positives are crops of one
    recording: an epoch is a permutation, its incomplete last batch dropped. With "same_speaker" they come
    from two recordings, in disjoint pairs drawn anew each epoch, with no speaker twice in a batch (a second
    pair of a speaker would be a false negative). Every epoch has `steps_per_epoch` batches. Raises ValueError
    when not even one batch can be filled.
    """

    def __init__(
        self,
        speakers: npt.ArrayLike,
        batch_size: int,
        seed: int,
        positives: Literal["same_utterance", "same_speaker"] = "same_utterance",
    ) -> None:
        self.speakers = np.asarray(speakers, dtype=np.int64)
        self.batch_size, self.seed, self.positives = batch_size, seed, positives
        self.steps_per_epoch = len(self.speakers) // batch_size
        most = f"{len(self.speakers)} utterances"
        if positives == "same_speaker":
            self._pairs = np.bincount(self.speakers) // 2
            self.steps_per_epoch = _most_full_batches(self._pairs, batch_size)
            most = f"{np.count_nonzero(self._pairs)} speakers with two utterances"
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"train.batch_size is {batch_size}, but there are only {most} for a batch: choose a smaller "
                "one, or give more lists or a larger data.fraction."
            )
        self._last_epoch: tuple[int, Indices] | None = None

    def rows(self, first_step: int, last_step: int) -> Rows:
        """Return the rows of global steps first_step .. last_step (exclusive), over any number of epochs.

        Four columns of shape (steps * batch_size,): `sample` (k of the run), `epoch`, `utterance`, `partner`.
        """
        samples = np.arange(first_step * self.batch_size, last_step * self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(samples, self.steps_per_epoch * self.batch_size)
        numbers, starts = np.unique(epochs, return_index=True)
        parts = zip(numbers.tolist(), np.split(places, starts[1:]), strict=False)
        pairs = [np.zeros((2, 0), dtype=np.int64), *(self._epoch(epoch)[:, part] for epoch, part in parts)]
        utterances, partners = np.concatenate(pairs, axis=1)
        return {"sample": samples, "epoch": epochs, "utterance": utterances, "partner": partners}

    def _epoch(self, epoch: int) -> Indices:
        # Returns the pairs (2, steps_per_epoch * batch_size) of an epoch.
        if self._last_epoch is None or self._last_epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            if self.positives == "same_utterance":
                order = rng.permutation(len(self.speakers))[: self.steps_per_epoch * self.batch_size]
                self._last_epoch = epoch, np.stack([order, order])
            else:
                self._last_epoch = epoch, self._draw_pairs(rng)
        return self._last_epoch[1]

    def _draw_pairs(self, rng: np.random.Generator) -> Indices:
        steps, size = self.steps_per_epoch, self.batch_size
        # Speakers in random order, each one's utterances together and shuffled.
        shuffled = rng.permutation(len(self.speakers))
        new_ids = rng.permutation(len(self._pairs))[self.speakers[shuffled]]
        order = np.argsort(new_ids, kind="stable")
        utterances, ids = shuffled[order], new_ids[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        place = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
        # More than `steps` pairs of one speaker cannot be in different batches.
        usable = 2 * np.minimum(self._pairs, steps)[self.speakers[utterances]]
        usable_pairs = utterances[place < usable].reshape(-1, 2)
        kept = np.sort(rng.permutation(len(usable_pairs))[: steps * size])
        # A speaker's pairs are neighbours, at most `steps` of them: dealt round, no batch gets two.
        batches = usable_pairs[kept].reshape(size, steps, 2).transpose(1, 0, 2)
        batches = batches[rng.permutation(steps)]
        rows = rng.permuted(np.tile(np.arange(size), (steps, 1)), axis=1)
        pairs: Indices = np.take_along_axis(batches, rows[:, :, None], axis=1).reshape(-1, 2).T
        return pairs


class InOrder(Plan):
    """Take every utterance once, in the order of the lists, for work between epochs.

    The last batch is filled up with the first utterances, so that all ranks have whole batches.
    """

    def __init__(self, num_utterances: int, batch_size: int) -> None:
        self.num_utterances, self.batch_size = num_utterances, batch_size
        self.steps_per_epoch = -(-num_utterances // batch_size)

    def _epoch(self, epoch: int) -> Indices:
        utterances = np.arange(self.steps_per_epoch * self.batch_size) % self.num_utterances
        return np.stack([utterances, utterances])


def rows_of_rank(rows: Mapping[str, Indices], batch_size: int, rank: int, world_size: int) -> Rows:
    """Return the rows of one rank: part `rank` of `world_size` equal parts of every global batch.

    The ranks' batches, joined in the order of ranks, are the global batch whatever `world_size` is.
    """
    share = batch_size // world_size
    return {
        name: column.reshape(-1, batch_size)[:, rank * share : (rank + 1) * share].reshape(-1)
        for name, column in rows.items()
    }


def _most_full_batches(pairs: Indices, batch_size: int) -> int:
    # Batches S of B different speakers exist exactly while sum_s min(pairs_s, S) >= S * B; the left side is
    # concave in S and 0 at S = 0, so the largest S is found by bisection.
    most = int(pairs.sum()) // batch_size
    return bisect_left(range(1, most + 1), True, key=lambda s: np.minimum(pairs, s).sum() < s * batch_size)
