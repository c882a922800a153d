"""Measure an encoder without labels, at every validation on the same views of the same training utterances.

The views of an utterance are crops that do not overlap, each with a simulated room, noise and level of its
own. They share the voice, and the recording's own channel as far as the simulated one does not mask it.
"""

import os
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslsv.config import Config
from sslsv.data.audio import SAMPLE_RATE, AudioError
from sslsv.data.draws import name_key
from sslsv.data.lists import Manifest
from sslsv.data.recordings import Recordings, open_recordings
from sslsv.data.section import channel_of
from sslsv.data.views import ViewMaker
from sslsv.evaluation.diagnostics import label_free_report
from sslsv.evaluation.verification import Embedder, failing_together
from sslsv.ops import distributed

# No training reaches this epoch, so the crops and rooms of the probe differ from those of any training.
PROBE_EPOCH = 2**32
MAX_OPENED = 8  # most recordings opened per chosen utterance, in search of long enough ones


class Probe:
    """Measure an encoder on views of a sample of training utterances, fixed by settings and lists.

    Each worker draws the views of its share at the first measurement and keeps them as int16. An utterance
    whose recording can't be opened is replaced; an utterance that turns out unreadable later is left out. All
    workers must call `measure` together. The constructor does not communicate and raises as `ViewMaker`.
    """

    def __init__(self, manifest: Manifest, config: Config) -> None:
        settings = config.evaluation.label_free
        self.num_views, self.crop_seconds = settings.views, settings.crop_seconds
        data = replace(
            config.data,
            speeds=(1.0,),
            speeds_are_classes=False,
            augment=channel_of(config.data.augment),
            # Noise and room files are used only once, but would stay in the cache until the run ends.
            bank_cache_mb=min(config.data.bank_cache_mb, 16),
        )
        views = [("views", settings.views, settings.crop_seconds, False)]
        self.maker = ViewMaker(manifest, views, data, config.seed, are_disjoint=True)
        sample: tuple[list[int], dict[str, str]] = [], {}
        if distributed.is_main():
            # The order depends on names only: lists that drop utterances (as in loops) share the others.
            keys = [name_key(b"%d " % config.seed + os.fsencode(path), 8) for path in manifest.paths]
            order = sorted(range(len(manifest)), key=keys.__getitem__)
            recordings = open_recordings(config.data.root)
            num_samples = settings.views * round(settings.crop_seconds * SAMPLE_RATE)
            sample = choose(recordings, manifest.paths, order, settings.utterances, num_samples)
        self.utterances, self.bad_recordings = sample  # Other workers get it at the first measurement.

    def measure(self, embedder: Embedder) -> dict[str, float]:
        """Return `label_free/<name>` -> value for the encoder; see `diagnostics.label_free_report`.

        Raises the same ValueError on every worker if fewer than two utterances can be read or an embedding
        is not finite.
        """
        views = self._embed(embedder)
        if len(views) < 2:
            raise ValueError(
                f"Label-free measures need at least 2 utterances, and {len(views)} of the training "
                f"utterances tried can be read; see {list(self.bad_recordings.values())[:3]}"
            )
        if not torch.isfinite(views).all():  # fp16 may leave infinite statistics in a batch norm
            raise ValueError(
                "The embeddings are not finite, because the weights are not: lower optimizer.learning_rate "
                "or set optimizer.clip_norm."
            )
        # One worker measures for all: decompositions differ between machines, but choices must not.
        values = label_free_report(views) if distributed.is_main() else {}
        return {f"label_free/{name}": value for name, value in distributed.broadcast_object(values).items()}

    def describe(self) -> dict[str, int]:
        """Return the numbers of utterances and views, for the report."""
        return {"utterances": len(self.utterances), "views": self.num_views}

    @cached_property
    def _views(self) -> npt.NDArray[np.int16]:
        # Returns (N, Q, T) for this worker's share of the utterances, which the main worker chose for all.
        chosen = self.utterances, self.bad_recordings
        self.utterances, self.bad_recordings = distributed.broadcast_object(chosen)
        share = np.array(self.utterances, dtype=np.int64)[self._share()]
        rows = {"sample": share, "epoch": np.full_like(share, PROBE_EPOCH), "utterance": share}
        batch = self.maker.make_batch(rows)
        bad = sorted({int(utterance) for utterance in batch["bad_utterance"] if utterance >= 0})
        reasons = {utterance: self.maker.explain("utterances", utterance) for utterance in bad}
        unreadable = {u: reason for part in distributed.gather_objects(reasons) for u, reason in part.items()}
        self.bad_recordings.update(unreadable.values())
        self._is_read = torch.from_numpy(~np.isin(self.utterances, list(unreadable)))
        return np.asarray(batch["views"], dtype=np.int16)

    def _embed(self, embedder: Embedder) -> Tensor:
        """Return embeddings (N, Q, D) of all readable utterances, on the CPU of every worker."""
        flat, dim = self._views.reshape(-1, self._views.shape[-1]), embedder.model.embedding_dim
        size = max(1, int(embedder.batch_seconds / self.crop_seconds))
        # Ranks count weak directions, which bf16 fills with rounding errors: LiDAR would be up to doubled.
        exact = Embedder(embedder.model, embedder.device, "fp32", embedder.batch_seconds)
        with failing_together():
            parts = [exact.embed(flat[i : i + size]) for i in range(0, len(flat), size)]
        embeddings = torch.zeros(len(self.utterances), self.num_views, dim)
        if parts:
            embeddings[self._share()] = torch.cat(parts).view(-1, self.num_views, dim)
        return distributed.all_reduce_sum(embeddings.to(embedder.device)).cpu()[self._is_read]

    def _share(self) -> slice:
        return slice(distributed.rank(), None, distributed.world_size())


def choose(
    recordings: Recordings, paths: list[str], order: list[int], count: int, enough_samples: int
) -> tuple[list[int], dict[str, str]]:
    """Return the first `count` utterances of `order` with enough samples, else the longest ones opened.

    Utterance i is `paths[i]`. At most 8 * `count` recordings are opened. Unreadable ones are skipped and
    returned as {path: reason}.
    """
    lengths, bad, num_enough = dict[int, int](), dict[str, str](), 0
    for utterance in order[: MAX_OPENED * count]:
        try:
            with recordings.open(paths[utterance]) as recording:
                lengths[utterance] = min(recording.num_samples, enough_samples)
        except AudioError as error:
            bad[recordings.location(paths[utterance])] = str(error)
            continue
        num_enough += lengths[utterance] == enough_samples
        if num_enough == count:
            break
    return sorted(lengths, key=lambda utterance: -lengths[utterance])[:count], bad  # stable: keeps the order
