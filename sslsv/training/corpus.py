"""Embed all training utterances for methods that need them between two epochs."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sslsv.config import Config
from sslsv.data.audio import SAMPLE_RATE, AudioError
from sslsv.data.lists import Manifest
from sslsv.data.pipeline import Batch, share_maker, train_batches
from sslsv.data.recordings import open_recordings
from sslsv.data.stream import InOrder, Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.verification import PRECISIONS
from sslsv.models.base import CorpusSize, Model
from sslsv.ops import distributed
from sslsv.training.step import move

NUM_MEASURED = 200  # utterances whose length is read to estimate the total
BLOCK_CROPS = 64  # crops per forward pass; fixed, because the last bit of embeddings depends on it


class TrainingCorpus:
    """Embed the training utterances for `Model.start_epoch`; see `models.base.Corpus`."""

    def __init__(self, manifest: Manifest, config: Config, device: torch.device) -> None:
        self.manifest, self.config, self.device = manifest, config, device
        self.size = CorpusSize(len(manifest), manifest.num_speakers * config.data.classes_per_speaker)
        # One maker per kind of crop, shared only once: Ray never frees an object whose reference was sent.
        self._makers: dict[tuple[float, bool], Any] = {}

    def hours(self) -> float:
        """Estimate the hours of speech from at most `NUM_MEASURED` lengths, evenly spaced."""
        recordings, paths = open_recordings(self.config.data.root), self.manifest.paths
        seconds: list[float] = []
        for path in paths[:: -(-len(paths) // NUM_MEASURED)]:
            with contextlib.suppress(AudioError), recordings.open(path) as recording:
                seconds.append(recording.num_samples / SAMPLE_RATE)
        return len(paths) * sum(seconds) / max(len(seconds), 1) / 3600

    def batches(self, plan: Plan, maker: Any, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield this worker's share of steps first_step .. last_step (exclusive); see `train_batches`."""
        resources = self.config.resources
        return train_batches(
            plan,
            maker,
            first_step,
            last_step,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            utterances_per_block=resources.utterances_per_block,
            data_tasks=resources.data_tasks,
            cpus_per_task=resources.cpus_per_data_task,
            is_pinned=self.device.type == "cuda",
        )

    @torch.no_grad()
    def embed(self, model: Model, *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return `model.embed` of one crop per utterance, (N, D) float32 on the CPU, equal on all workers.

        An utterance's crop is the same in every epoch. Workers embed full blocks of `BLOCK_CROPS` crops. The
        blocks do not depend on the number of workers, so on CPUs the rows do not either, bit for bit. `clean`
        crops are neither augmented nor changed in speed.
        """
        data, key = self.config.data, (seconds, clean)
        if clean:
            data = replace(data, speeds=(1.0,), speeds_are_classes=False)
        if key not in self._makers:
            self._makers[key] = share_maker(
                ViewMaker(self.manifest, [("crop", 1, seconds, clean)], data, self.config.seed)
            )
        plan = InOrder(self.size.num_utterances, BLOCK_CROPS * distributed.world_size())
        dtype = PRECISIONS[self.config.train.precision]
        was_training = model.training
        model.eval()
        blocks = []
        try:
            for batch in self.batches(plan, self._makers[key], 0, plan.steps_per_epoch):
                crops = move(batch["crop"][:, 0], self.device)
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    embeddings = model.embed(crops)
                blocks.append(distributed.gather(embeddings.float()).cpu())
        finally:
            model.train(was_training)
        return torch.cat(blocks)[: self.size.num_utterances]
