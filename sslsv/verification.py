"""Speaker verification of an encoder: embed whole recordings, compare them in trials, count the errors."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslsv import distributed
from sslsv.config import Config
from sslsv.data.audio import SAMPLE_RATE, Waveform, read_whole
from sslsv.data.manifest import (
    Manifest,
    Trials,
    hold_out_speakers,
    make_trials,
    read_train_lists,
    read_trials,
)
from sslsv.data.shift import Shifter
from sslsv.metrics import eer, min_dcf
from sslsv.models.base import Model
from sslsv.scoring import cosine_scores

VERSIONS = 2  # of each held-out utterance when they are shifted: enough trials from few speakers


@dataclass(frozen=True)
class TrialSet:
    """Trials and how to read their recordings; recording i is `read(i)`, float32 (T,) at 16 kHz."""

    name: str
    trials: Trials
    read: Callable[[int], Waveform]


def open_trial_sets(config: Config) -> tuple[Manifest, TrialSet | None, list[TrialSet]]:
    """What the settings train on, validate on (or None) and test on.

    Validation trials come from `evaluation.validation`, or are made from held-out training speakers, which
    the training manifest returned then lacks.  Raises ValueError or FileNotFoundError with a sentence.
    """
    root, evaluation = config.data.root, config.evaluation
    manifest = read_train_lists(root, config.data.train_lists)
    validation = None
    if evaluation.validation is not None:
        validation = listed_trials(root, evaluation.validation)
    elif evaluation.held_out_speakers > 0:
        manifest, held_out = hold_out_speakers(manifest, evaluation.held_out_speakers, config.seed)
        validation = held_out_trials(config, held_out)
    return manifest, validation, [listed_trials(root, name) for name in evaluation.test]


def listed_trials(root: str, name: str) -> TrialSet:
    """Trials of a list file, read as they are."""
    trials = read_trials(root, name)
    return TrialSet(Path(name).name, trials, lambda i: read_whole(Path(root) / trials.paths[i]))


def held_out_trials(config: Config, held_out: Manifest) -> TrialSet:
    """Trials made from held-out training speakers.

    With `held_out_is_shifted` every recording is heard twice, each time in a room, with a noise and at a
    level of its own, drawn from (seed, recording, version): where a corpus has one session per speaker,
    trials without it measure the channel.
    """
    root = Path(config.data.root)
    if not config.evaluation.held_out_is_shifted:
        trials = make_trials(held_out, config.seed)
        return TrialSet("validation", trials, lambda i: read_whole(root / trials.paths[i]))
    trials = make_trials(held_out, config.seed, versions=VERSIONS)
    shifter = Shifter(config.data.root, config.data.augment, config.seed)
    # Kept in memory: they are few, and a room costs more than the 64 kB of a second.
    read = functools.cache(lambda i: shifter.read(trials.paths[i], int(trials.versions[i])))
    return TrialSet("validation", trials, read)


class Embedder:
    """Embeds whole recordings, several at once only if they are equally long.

    Padding would change instance norm, squeeze-excitation and pooling, hence the embedding.  `batch_seconds`
    bounds the audio of one forward pass.  bf16 keeps the cosine to fp32 above 0.9999.
    """

    def __init__(self, model: Model, device: torch.device, precision: str, batch_seconds: float) -> None:
        self.model, self.device, self.batch_seconds = model, device, batch_seconds
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16

    def embed(self, waveforms: list[Waveform]) -> Tensor:
        """Embeddings (N, D) of equally long waveforms, float32 on the CPU."""
        batch = torch.from_numpy(np.stack(waveforms)).to(self.device)
        was_training = self.model.training
        self.model.eval()
        try:
            is_mixed = self.dtype != torch.float32
            with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, is_mixed):
                return self.model.embed(batch).float().cpu()
        finally:
            self.model.train(was_training)

    def embed_recordings(self, read: Callable[[int], Waveform], count: int) -> npt.NDArray[np.float32]:
        """Embeddings (count, D) of recordings 0..count-1; each worker makes a share, all get the whole."""
        mine = range(distributed.rank(), count, distributed.world_size())
        embeddings: Tensor | None = None
        for indices, waveforms in _equal_lengths(read, mine, self.batch_seconds):
            block = self.embed(waveforms)
            if embeddings is None:
                embeddings = torch.zeros(count, block.shape[1])
            embeddings[torch.tensor(indices)] = block
        if embeddings is None:
            dim = int(self.model.encoder.embedding_dim)  # type: ignore[arg-type]
            embeddings = torch.zeros(count, dim)
        return distributed.all_reduce_sum(embeddings.to(self.device)).cpu().numpy()


def _equal_lengths(
    read: Callable[[int], Waveform], indices: range, batch_seconds: float
) -> Iterator[tuple[list[int], list[Waveform]]]:
    """Groups of equally long recordings, of at most `batch_seconds` or one alone; a thread reads ahead."""
    waiting: dict[int, list[tuple[int, Waveform]]] = {}
    held = 0
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(read, i) for i in indices[:8]]
        for position, index in enumerate(indices):
            waveform = ahead.pop(0).result()
            if position + 8 < len(indices):
                ahead.append(pool.submit(read, indices[position + 8]))
            group = waiting.setdefault(len(waveform), [])
            group.append((index, waveform))
            held += len(waveform)
            if (len(group) + 1) * len(waveform) > batch_seconds * SAMPLE_RATE:
                held -= len(group) * len(waveform)
                yield _pop(waiting, len(waveform))
            # Where lengths hardly ever repeat, waiting for more would hold a corpus in memory.
            while held > 10 * batch_seconds * SAMPLE_RATE:
                longest = max(waiting, key=lambda length: length * len(waiting[length]))
                held -= longest * len(waiting[longest])
                yield _pop(waiting, longest)
    for length in sorted(waiting):
        yield _pop(waiting, length)


def _pop(waiting: dict[int, list[tuple[int, Waveform]]], length: int) -> tuple[list[int], list[Waveform]]:
    group = waiting.pop(length)
    return [index for index, _ in group], [waveform for _, waveform in group]


def verify(embedder: Embedder, trial_set: TrialSet) -> tuple[dict[str, float], npt.NDArray[np.float32]]:
    """EER (percent) and minDCF (normalised, P_target 0.01) of cosine scores, and the embeddings (R, D)."""
    trials = trial_set.trials
    embeddings = embedder.embed_recordings(trial_set.read, len(trials.paths))
    scores = cosine_scores(embeddings, trials.enrol, trials.test)
    return {"eer": eer(scores, trials.targets), "min_dcf": min_dcf(scores, trials.targets)}, embeddings


def describe_trials(trial_set: TrialSet) -> dict[str, Any]:
    """Counts of trials and recordings, for the report."""
    targets = int(trial_set.trials.targets.sum())
    return {
        "trials": len(trial_set.trials),
        "targets": targets,
        "nontargets": len(trial_set.trials) - targets,
        "recordings": len(trial_set.trials.paths),
    }
