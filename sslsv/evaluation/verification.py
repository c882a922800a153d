"""Evaluate speaker verification: embed entire recordings, compare them in trials, compute error rates."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sslsv.data.audio import SAMPLE_RATE, AudioError, Waveform
from sslsv.evaluation.intervals import speaker_bootstrap
from sslsv.evaluation.metrics import ErrorCurve, dcf_key
from sslsv.evaluation.scoring import cosine_scores
from sslsv.evaluation.trials import TrialSet, speakers_of
from sslsv.models.base import Model
from sslsv.ops import distributed

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUM_AHEAD = 8  # recordings that a thread reads ahead


class Embedder:
    """Embed entire recordings; only recordings of equal length share a batch.

    Padding would change instance norm, squeeze-excitation and pooling, and thus the embedding.
    `batch_seconds` limits the audio of a forward pass. bf16 and fp32 embeddings have a cosine above 0.9999.
    """

    def __init__(self, model: Model, device: torch.device, precision: str, batch_seconds: float) -> None:
        self.model, self.device, self.batch_seconds = model, device, batch_seconds
        self.dtype = PRECISIONS[precision]

    def embed(self, waveforms: list[Waveform] | npt.NDArray[np.int16]) -> Tensor:
        """Return embeddings (N, D), float32 on the CPU, of waveforms (N, T) of equal length, float or int16.

        Raises ValueError if they need more memory than the GPU has.
        """
        batch = torch.from_numpy(np.asarray(waveforms)).to(self.device)
        in_training = [part for part in self.model.modules() if part.training]
        self.model.eval()
        try:
            with torch.inference_mode(), self.autocast():
                return self.model.embed(batch).float().cpu()
        except torch.OutOfMemoryError as error:  # Self-attention needs memory quadratic in length.
            seconds = batch.shape[1] / SAMPLE_RATE
            raise ValueError(
                f"{len(batch)} recording(s) of {seconds:.0f} s need more memory than {self.device} has: "
                "lower evaluation.batch_seconds, or list parts of long recordings, such as a.wav#t=0,60"
            ) from error
        finally:
            for part in in_training:  # `self.model.train()` would also change modules that were in eval mode.
                part.training = True

    def autocast(self) -> torch.autocast:
        """Return the autocast context; keep it open over several calls to cast the weights only once."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def embed_recordings(
        self, read: Callable[[int], Waveform], count: int
    ) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
        """Return embeddings (count, D) of recordings 0 .. count - 1, and {index: reason} of unreadable ones.

        Each worker embeds a share, and all workers get all embeddings. Rows of unreadable recordings are 0.
        If one worker lacks memory (see `embed`), all workers raise its ValueError.
        """
        share = range(distributed.rank(), count, distributed.world_size())
        embeddings = torch.zeros(count, self.model.embedding_dim)
        bad: dict[int, str] = {}
        with failing_together(), self.autocast():
            for indices, waveforms in self._equal_lengths(read, share, bad):
                embeddings[torch.tensor(indices)] = self.embed(waveforms)
        all_bad = {i: reason for part in distributed.gather_objects(bad) for i, reason in part.items()}
        return distributed.all_reduce_sum(embeddings.to(self.device)).cpu().numpy(), all_bad

    def _equal_lengths(
        self, read: Callable[[int], Waveform], indices: range, bad: dict[int, str]
    ) -> Iterator[tuple[list[int], list[Waveform]]]:
        """Yield batches of equally long recordings: up to `batch_seconds`, or a single longer recording.

        Unreadable recordings are added to `bad`. Recordings too short for the encoder are repeated.
        """
        waiting: dict[int, tuple[list[int], list[Waveform]]] = {}  # length -> indices, waveforms
        max_samples, min_samples = self.batch_seconds * SAMPLE_RATE, self.model.min_samples
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(read, i) for i in indices[:NUM_AHEAD]]
            for position, index in enumerate(indices):
                future = ahead.pop(0)
                if position + NUM_AHEAD < len(indices):
                    ahead.append(pool.submit(read, indices[position + NUM_AHEAD]))
                try:
                    waveform = future.result()
                except AudioError as error:
                    bad[index] = str(error)
                    continue
                if len(waveform) < min_samples:
                    waveform = np.resize(waveform, min_samples)
                group = waiting.setdefault(len(waveform), ([], []))
                group[0].append(index)
                group[1].append(waveform)
                if (len(group[0]) + 1) * len(waveform) > max_samples:
                    yield waiting.pop(len(waveform))
                # If lengths rarely repeat, waiting recordings would fill the memory: flush the largest group.
                while sum(length * len(group[0]) for length, group in waiting.items()) > 10 * max_samples:
                    yield waiting.pop(max(waiting, key=lambda length: length * len(waiting[length][0])))
        for length in sorted(waiting):
            yield waiting.pop(length)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Raise a ValueError of one worker on all workers, which would otherwise wait for it forever."""
    problem = None
    try:
        yield
    except ValueError as error:
        problem = error
    for sentence in filter(None, distributed.gather_objects(problem and (str(problem) or repr(problem)))):
        raise ValueError(sentence) from problem


@dataclass(frozen=True)
class Verification:
    """Hold the results of a trial set; trials with an unreadable recording are left out and counted."""

    # eer (percent), min_dcf (normalised, P_target 0.01), skipped_trials if any, interval ends such as eer_low
    metrics: dict[str, float]
    embeddings: npt.NDArray[np.float32]  # (R, D), of the readable recordings
    bad_recordings: dict[str, str]  # path -> reason


def verify(embedder: Embedder, trial_set: TrialSet, replicates: int = 0) -> Verification:
    """Score every trial by cosine and compute the error rates.

    `replicates` > 0 adds 95 % intervals from that many bootstrap draws of speakers. Raises the same
    ValueError on every worker if no target or no nontarget trial can be scored, or if an embedding is not
    finite.
    """
    trials = trial_set.trials
    embeddings, bad = embedder.embed_recordings(trial_set.read, len(trials.paths))
    is_scored = ~np.isin([trials.enrol, trials.test], list(bad)).any(axis=0)
    targets = trials.targets[is_scored]
    reasons = {trials.paths[index]: reason for index, reason in sorted(bad.items())}
    if targets.all() or not targets.any():
        raise ValueError(
            f"The trials '{trial_set.name}' leave {int(targets.sum())} target and {int((~targets).sum())} "
            "nontarget trials to score, and both kinds are needed; recordings that can't be read:\n  "
            + "\n  ".join(reasons.values())
        )
    enrol, test = trials.enrol[is_scored], trials.test[is_scored]
    scores = cosine_scores(embeddings, enrol, test)
    curve = ErrorCurve.of(scores, targets)
    metrics = {"eer": curve.eer(), "min_dcf": curve.min_dcf()}
    if replicates:
        speakers = speakers_of(trials)
        intervals = speaker_bootstrap(scores, targets, speakers[enrol], speakers[test], replicates=replicates)
        for name, interval in (("eer", intervals["eer"]), ("min_dcf", intervals[dcf_key("min", 0.01)])):
            metrics |= {f"{name}_{end}": value for end, value in interval._asdict().items()}
    if bad:
        metrics["skipped_trials"] = float((~is_scored).sum())
    return Verification(metrics, np.delete(embeddings, list(bad), axis=0), reasons)
