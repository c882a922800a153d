"""The order of training samples: sample k depends only on seed, k, batch size and number of utterances."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Rows = dict[str, Indices]


class Plan:
    """Order all samples of a run, epoch after epoch, in global batches of `batch_size`.

    An epoch is a random permutation of the utterances without its incomplete last batch, so every epoch has
    `steps_per_epoch` batches. Raises ValueError if there are too few utterances for one batch.
    """

    def __init__(self, num_utterances: int, batch_size: int, seed: int) -> None:
        self.num_utterances, self.batch_size, self.seed = num_utterances, batch_size, seed
        self.steps_per_epoch = num_utterances // batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"train.batch_size is {batch_size}, but there are only {num_utterances} utterances for a "
                "batch: choose a smaller one, or give more lists or a larger data.fraction."
            )
        self._last_epoch: tuple[int, Indices] | None = None

    def rows(self, first_step: int, last_step: int) -> Rows:
        """Return the rows of global steps first_step .. last_step (exclusive), over any number of epochs.

        The three columns (steps * batch_size,) are `sample` (k in the run), `epoch` and `utterance`.
        """
        samples = np.arange(first_step * self.batch_size, last_step * self.batch_size, dtype=np.int64)
        epochs, positions = np.divmod(samples, self.steps_per_epoch * self.batch_size)
        distinct, starts = np.unique(epochs, return_index=True)
        parts = zip(distinct.tolist(), np.split(positions, starts[1:]), strict=False)
        utterances = [np.zeros(0, dtype=np.int64), *(self._epoch(epoch)[part] for epoch, part in parts)]
        return {"sample": samples, "epoch": epochs, "utterance": np.concatenate(utterances)}

    def _epoch(self, epoch: int) -> Indices:
        # Returns the utterances of an epoch, (steps_per_epoch * batch_size,).
        if self._last_epoch is None or self._last_epoch[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_utterances)
            self._last_epoch = epoch, order[: self.steps_per_epoch * self.batch_size]
        return self._last_epoch[1]


class InOrder(Plan):
    """Take every utterance once, in the order of the lists, for work between epochs.

    The last batch is filled up with the first utterances, so that all ranks have full batches.
    """

    def __init__(self, num_utterances: int, batch_size: int) -> None:
        self.num_utterances, self.batch_size = num_utterances, batch_size
        self.steps_per_epoch = -(-num_utterances // batch_size)

    def _epoch(self, epoch: int) -> Indices:
        return np.arange(self.steps_per_epoch * self.batch_size) % self.num_utterances


def rows_of_rank(rows: Mapping[str, Indices], batch_size: int, rank: int, world_size: int) -> Rows:
    """Return the rows of one rank: part `rank` of `world_size` equal parts of every global batch.

    The ranks' batches, joined in the order of ranks, equal the global batch for every `world_size`.
    """
    share = batch_size // world_size
    return {
        name: column.reshape(-1, batch_size)[:, rank * share : (rank + 1) * share].reshape(-1)
        for name, column in rows.items()
    }
