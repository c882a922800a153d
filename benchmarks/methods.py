"""Compare a step of every method with SimCLR's: same encoder and batch, alternately, with peak memory.

Methods encode different amounts of audio, so the ratio of a row is per second of audio: SimCLR's time for the
same amount, divided by the method's time. A second counts three times with gradients (forward, twice as much
backward), and once without gradients, as in a teacher. Each method has its published settings, except that
parts that begin in a later epoch are active at once.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import memory_bytes
from benchmarks.contestants import Contestant
from benchmarks.row import Row, Settings
from benchmarks.world_size import noise_batch
from sslsv import registry
from sslsv.config import Config, load_config
from sslsv.encoders.features import SAMPLE_RATE, Spectrogram
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import CorpusSize, Model
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import take_step

REFERENCE = "simclr"
SSPS = "model.positives={name: ssps, start_epoch: 0, num_clusters: 1000, kmeans_iterations: 1}"
VARIANTS = {  # method -> its further variants
    "simclr": ["ssps", "multi_view"],
    "moco": ["ssps"],
    "swav": ["ssps"],
    "dino": ["ssps", "rdino"],
}
MORE = {
    "ssps": [SSPS],
    "multi_view": ["model.form=multi_view"],
    "rdino": ["model.regularizer_weight=0.2"],
}
SIZE = CorpusSize(num_utterances=8192, num_speakers=5994)


def rows(settings: Settings) -> Iterator[Row]:
    """Yield a row per method and variant, each in its own process, alternately with SimCLR's step."""
    size = 128  # one group of W-MSE
    with Contestant("method_step", **job_of(REFERENCE, size)) as reference:
        for name in registry.names("models"):
            for variant in ["", *VARIANTS.get(name, [])]:
                case = f"{name}, {variant}" if variant else name
                with Contestant("method_step", **job_of(name, size, *MORE.get(variant, []))) as ours:
                    pairs = [(ours.run(1), reference.run(1)) for _ in range(min(3, settings.pairs))]
                    mine, theirs = ours.facts, reference.facts
                audio = mine["audio_seconds"] / theirs["audio_seconds"]
                peaks = f"peak {mine['peak_mb']:.0f} MB, SimCLR's {theirs['peak_mb']:.0f}"
                yield Row(
                    case,
                    "SimCLR's step",
                    *(1000 * statistics.median(column) for column in zip(*pairs, strict=True)),
                    unit="ms",
                    ratios=[audio * b / a for a, b in pairs],
                    target=0.8,
                    limit=f"{audio:.2f}x the audio, {peaks}",
                )


def job_of(name: str, batch_size: int, *more: str) -> dict[str, Any]:
    """Return a contestant's job: the published settings with the common encoder and batch size."""
    path = f"configs/{name}.yml"
    method = load_config(path).model
    start_settings = [key for key in vars(method) if key.endswith("start_epoch") or key.startswith("frozen_")]
    overrides = [
        f"train.batch_size={batch_size}",
        f"encoder={json.dumps(asdict(ThinResNet34.Config(stem_time_stride=2)))}",  # every setting
        *(f"model.{key}=0" for key in start_settings),
    ]
    return {"config": path, "overrides": [*overrides, *more], "warm_up_rounds": 3}


class MethodStep:
    """Take training steps on noise, on the GPU if there is one; `facts` describe the last step.

    With SSPS, every step also embeds a clean crop of each utterance in the batch. This is the step's share of
    the pass over all utterances before an epoch.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.config: Config = load_config(job["config"], job["overrides"])
        has_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if has_gpu else "cpu")
        size = CorpusSize(job.get("num_utterances", SIZE.num_utterances), SIZE.num_speakers)
        self.state = build_state(self.config, size, self.device)
        self.network = wrap_model(self.state.model, self.config, self.device)
        generator = torch.Generator().manual_seed(3)
        batch = noise_batch(self.state.model, generator, self.config.train.batch_size, size)
        # As in training, the GPU copies the batch from pinned memory.
        self.batch = {name: column.pin_memory() for name, column in batch.items()} if has_gpu else batch
        self.corpus, self.audio_seconds = NoiseCorpus(size), 0.0
        for module in self.state.model.modules():
            if isinstance(module, Spectrogram) and not self.config.train.compile:  # it would be compiled too
                module.register_forward_pre_hook(self._count)

    def _count(self, module: object, inputs: tuple[Tensor]) -> None:
        passes = 3 if torch.is_grad_enabled() else 1
        self.audio_seconds += passes * inputs[0].numel() / SAMPLE_RATE

    def __call__(self) -> None:
        """Take a step and wait until the GPU has finished it."""
        self.take()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def take(self) -> None:
        """Take a step without waiting for the GPU."""
        self.audio_seconds = 0.0
        take_step(
            self.state,
            self.network,
            dict(self.batch),
            config=self.config,
            steps_per_epoch=10**6,
            device=self.device,
            corpus=self.corpus,
        )
        positives = self.state.model.positives
        if positives is not None:
            samples = round(SAMPLE_RATE * positives.settings.reference_seconds)
            crops = torch.zeros(len(self.batch["sample"]), samples, dtype=torch.int16, device=self.device)
            dtype = torch.bfloat16 if self.config.train.precision == "bf16" else torch.float32
            self.state.model.eval()
            with torch.no_grad(), torch.autocast(self.device.type, dtype, dtype != torch.float32):
                self.state.model.embed(crops)
            self.state.model.train()

    @property
    def facts(self) -> dict[str, float]:
        """Return the peak memory of the GPU, or of the process without one, and seconds of audio per step.

        Compiled steps do not count their audio.
        """
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else memory_bytes()
        return {"peak_mb": peak / 1e6, "audio_seconds": self.audio_seconds}


class NoiseCorpus:
    """Stand in for a corpus with random embeddings, so that memories and clusters need no pass."""

    def __init__(self, size: CorpusSize) -> None:
        self.size = size

    def embed(self, model: Model, *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return random embeddings of all utterances, (N, D)."""
        generator = torch.Generator().manual_seed(4)
        return torch.randn(self.size.num_utterances, model.embedding_dim, generator=generator)
