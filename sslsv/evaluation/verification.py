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

from sslsv.config import Config
from sslsv.data.audio import SAMPLE_RATE, AudioError, Waveform, wrap_to_length
from sslsv.data.channel import ChannelSimulator
from sslsv.data.lists import Manifest, Trials, hold_out_speakers, make_trials, read_train_lists, read_trials
from sslsv.data.recordings import open_recordings
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scoring import cosine_scores
from sslsv.models.base import Model
from sslsv.ops import distributed

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_SAMPLES = 400  # of a recording: one analysis window
VERSIONS = 2  # of each held-out utterance when they are shifted: enough trials from few speakers


class VerificationError(ValueError):
    """Trials that can't be scored; the message says which and why."""


@dataclass(frozen=True)
class TrialSet:
    """Trials and how to read their recordings; recording i is `read(i)`, float32 (T,) at 16 kHz."""

    name: str
    trials: Trials
    read: Callable[[int], Waveform]
    is_simulated: bool = False  # else recording i is the file `trials.paths[i]` as it is


def open_trial_sets(config: Config) -> tuple[Manifest, TrialSet | None, list[TrialSet]]:
    """What the settings train on, validate on (or None) and test on; see `open_training_side`."""
    manifest, validation = open_training_side(config)
    return manifest, validation, [listed_trials(config.data.root, name) for name in config.evaluation.test]


def open_training_side(config: Config) -> tuple[Manifest, TrialSet | None]:
    """What the settings train on and validate on, if on any trials.

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
    return manifest, validation


def listed_trials(root: str, name: str) -> TrialSet:
    """Trials of a list file, read as they are."""
    trials = read_trials(root, name)
    recordings = open_recordings(root)
    return TrialSet(Path(name).name, trials, lambda i: recordings.read_whole(trials.paths[i]))


def held_out_trials(config: Config, held_out: Manifest) -> TrialSet:
    """Trials made from held-out training speakers.

    With `held_out_is_shifted` every recording is heard twice, each time in a room, with a noise and at a
    level of its own, drawn from (seed, recording, version): where a corpus has one session per speaker,
    trials without it measure the channel.
    """
    recordings = open_recordings(config.data.root)
    if not config.evaluation.held_out_is_shifted:
        trials = make_trials(held_out, config.seed)
        return TrialSet("validation", trials, lambda i: recordings.read_whole(trials.paths[i]))
    trials = make_trials(held_out, config.seed, versions=VERSIONS)
    simulator = ChannelSimulator(recordings, config.data, config.seed)
    # Kept in memory if they are few: a room costs more than the 32 kB of a second.
    read = functools.lru_cache(maxsize=512)(
        lambda i: simulator.read(trials.paths[i], int(trials.versions[i]))
    )
    return TrialSet("validation", trials, read, is_simulated=True)


def checked_waveform(values: npt.ArrayLike) -> Waveform:
    """A waveform as float32 (T,), or a ValueError that says why it is none."""
    waveform = np.asarray(values, dtype=np.float32)
    if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
        is_bad = waveform.ndim == 1 and waveform.size > 0
        what = "has samples that are not finite" if is_bad else f"has shape {waveform.shape}"
        raise ValueError(f"the waveform {what}; it must be (T,), mono at 16 kHz, with at least one sample")
    return waveform


class Embedder:
    """Embeds whole recordings, several at once only if they are equally long.

    Padding would change instance norm, squeeze-excitation and pooling, hence the embedding.  `batch_seconds`
    bounds the audio of one forward pass.  bf16 keeps the cosine to fp32 above 0.9999.
    """

    def __init__(self, model: Model, device: torch.device, precision: str, batch_seconds: float) -> None:
        self.model, self.device, self.batch_seconds = model, device, batch_seconds
        self.dtype = PRECISIONS[precision]

    def embed(self, waveforms: list[Waveform] | npt.NDArray[np.int16]) -> Tensor:
        """Embeddings (N, D), float32 on the CPU, of equally long waveforms: floats, or int16 (N, T)."""
        batch = torch.from_numpy(np.asarray(waveforms)).to(self.device)
        was_training = self.model.training
        self.model.eval()
        try:
            is_mixed = self.dtype != torch.float32
            with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, is_mixed):
                return self.model.embed(batch).float().cpu()
        finally:
            self.model.train(was_training)

    def embed_recordings(
        self, read: Callable[[int], Waveform], count: int
    ) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
        """Embeddings (count, D) of recordings 0..count-1, and why some of them can't be read.

        Each worker makes a share, all get the whole.  The row of an unreadable recording is 0.
        """
        mine = range(distributed.rank(), count, distributed.world_size())
        dim = int(self.model.encoder.embedding_dim)  # type: ignore[arg-type]
        embeddings = torch.zeros(count, dim)
        bad: dict[int, str] = {}
        for indices, waveforms in _equal_lengths(read, mine, self.batch_seconds, bad):
            embeddings[torch.tensor(indices)] = self.embed(waveforms)
        everywhere = {index: why for part in distributed.gather_objects(bad) for index, why in part.items()}
        return distributed.all_reduce_sum(embeddings.to(self.device)).cpu().numpy(), everywhere


def _equal_lengths(
    read: Callable[[int], Waveform], indices: range, batch_seconds: float, bad: dict[int, str]
) -> Iterator[tuple[list[int], list[Waveform]]]:
    """Groups of equally long recordings, of at most `batch_seconds` or one alone; a thread reads ahead.

    Recordings that can't be read are put into `bad`; shorter ones than a spectrum needs are repeated.
    """
    waiting: dict[int, list[tuple[int, Waveform]]] = {}
    held = 0
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(read, i) for i in indices[:8]]
        for position, index in enumerate(indices):
            done = ahead.pop(0)
            if position + 8 < len(indices):
                ahead.append(pool.submit(read, indices[position + 8]))
            try:
                waveform = done.result()
            except AudioError as error:
                bad[index] = str(error)
                continue
            if len(waveform) < MIN_SAMPLES:
                waveform = wrap_to_length(waveform, MIN_SAMPLES)
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


@dataclass(frozen=True)
class Verification:
    """What came out of a trial set; trials with a recording that can't be read are left out and counted."""

    metrics: dict[str, float]  # eer (percent), min_dcf (normalised, P_target 0.01), skipped_trials if any
    embeddings: npt.NDArray[np.float32]  # (R, D), of the readable recordings
    bad_recordings: dict[str, str]  # path: why it can't be read


def verify(embedder: Embedder, trial_set: TrialSet) -> Verification:
    """Compare the recordings of every trial by cosine and count the errors.

    Raises VerificationError, the same on every worker, when no target or no nontarget trial can be scored.
    """
    trials = trial_set.trials
    embeddings, bad = embedder.embed_recordings(trial_set.read, len(trials.paths))
    is_read = np.ones(len(trials.paths), dtype=bool)
    is_read[list(bad)] = False
    is_scored = is_read[trials.enrol] & is_read[trials.test]
    targets = trials.targets[is_scored]
    reasons = {trials.paths[index]: why for index, why in sorted(bad.items())}
    if targets.all() or not targets.any():
        listed = "\n  ".join(reasons.values())
        raise VerificationError(
            f"The trials '{trial_set.name}' leave {int(targets.sum())} target and {int((~targets).sum())} "
            "nontarget trials to score, and both kinds are needed; recordings that can't be read:\n  "
            + listed
        )
    scores = cosine_scores(embeddings, trials.enrol[is_scored], trials.test[is_scored])
    curve = ErrorCurve.of(scores, targets)
    metrics = {"eer": curve.eer(), "min_dcf": curve.min_dcf()}
    if bad:
        metrics["skipped_trials"] = float((~is_scored).sum())
    return Verification(metrics, embeddings[is_read], reasons)


def describe_trials(trial_set: TrialSet) -> dict[str, Any]:
    """Counts of trials and recordings, for the report."""
    targets = int(trial_set.trials.targets.sum())
    return {
        "trials": len(trial_set.trials),
        "targets": targets,
        "nontargets": len(trial_set.trials) - targets,
        "recordings": len(trial_set.trials.paths),
    }
