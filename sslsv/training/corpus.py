"""Embed all training utterances, which a method may ask for between two epochs."""

from dataclasses import replace

import torch
from torch import Tensor

from sslsv.config import Config
from sslsv.data.lists import Manifest
from sslsv.data.pipeline import share, train_batches
from sslsv.data.stream import InOrder
from sslsv.data.views import ViewMaker
from sslsv.evaluation.verification import PRECISIONS
from sslsv.models.base import CorpusSize, Model
from sslsv.ops import distributed
from sslsv.training.step import move

BLOCK_CROPS = 64  # crops of a forward pass; embeddings depend on it in the last bit, so it is fixed


class TrainingCorpus:
    """Embed the training utterances for `Model.start_epoch`; see `models.base.Corpus`."""

    def __init__(self, manifest: Manifest, config: Config, device: torch.device) -> None:
        self.manifest, self.config, self.device = manifest, config, device
        self.size = CorpusSize(len(manifest), manifest.num_speakers)

    @torch.no_grad()
    def embed(self, model: Model, *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return `model.embed` of one crop of each utterance, (N, D) float32 on the CPU, the same everywhere.

        A crop is at its place whatever the epoch. Workers embed whole blocks of `BLOCK_CROPS` utterances, the
        same blocks whatever their number, so the rows are the same bit for bit on CPUs. `clean` crops are
        neither augmented nor sped up.
        """
        data, resources = self.config.data, self.config.resources
        if clean:
            data = replace(data, speeds=(1.0,))
        maker = ViewMaker(self.manifest, [("crop", 1, seconds, clean)], data, self.config.seed)
        world = distributed.world_size()
        plan = InOrder(self.size.num_utterances, BLOCK_CROPS * world)
        dtype = PRECISIONS[self.config.train.precision]
        was_training = model.training
        model.eval()
        blocks = []
        try:
            for batch in train_batches(
                plan,
                share(maker),
                0,
                plan.num_steps,
                rank=distributed.rank(),
                world_size=world,
                utterances_per_block=resources.utterances_per_block,
                data_tasks=resources.data_tasks,
                cpus_per_task=resources.cpus_per_data_task,
                is_pinned=self.device.type == "cuda",
            ):
                crops = move(batch["crop"][:, 0], self.device)
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    embeddings = model.embed(crops)
                blocks.append(distributed.gather(embeddings.float()).cpu())
        finally:
            model.train(was_training)
        return torch.cat(blocks)[: self.size.num_utterances]
