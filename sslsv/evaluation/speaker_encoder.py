"""Load a trained encoder, embed recordings with it and compare them.

encoder = SpeakerEncoder.load("runs/simclr")
encoder.embed("a.wav")                               # (D,)
encoder.compare(["a1.wav", "a2.wav"], "b.wav")       # cosine, log-likelihood ratio, probability
"""

import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sslsv
from sslsv.build import build_model
from sslsv.config import Config, read_config
from sslsv.data.audio import read_whole, to_waveform
from sslsv.evaluation.calibration import Calibration, posterior
from sslsv.evaluation.scoring import unit_rows
from sslsv.evaluation.verification import PRECISIONS, Embedder
from sslsv.models.base import CorpusSize, Model, Progress, StepOutput
from sslsv.runs import checkpoint
from sslsv.runs.checkpoint import Checkpoint
from sslsv.runs.folder import RunFolder, absolute
from sslsv.settings import ConfigError, refuse_if

Embedding = npt.NDArray[np.float32]
AudioInput = str | os.PathLike[str] | npt.NDArray[np.float32] | npt.NDArray[np.int16]

NUM_AVERAGED = 10  # newest checkpoints in an average
CALIBRATION_FILE = "calibration.json"
# The code that turns a file into an embedding. `identity` hashes it: a change invalidates cached embeddings.
FRONT_END = (
    *("data/audio.py", "data/recordings.py", "encoders", "ops", "models/base.py"),
    *("evaluation/verification.py", "evaluation/embedding.py"),
)


@dataclass(frozen=True)
class Comparison:
    """Hold the result of a comparison; `llr` and `probability` are None without a calibration."""

    cosine: float  # -1 to 1
    llr: float | None = None  # natural log of P(evidence | same speaker) / P(evidence | different speakers)
    probability: float | None = None  # probability of the same speaker, given the prior `p_target`


@dataclass(frozen=True)
class SpeakerEncoder:
    """Embed and compare recordings with trained weights; the module's docstring has an example."""

    model: Model
    config: Config
    checkpoints: tuple[str, ...]  # file names; several if their weights are averaged
    steps: tuple[int, ...]  # optimizer steps of each checkpoint
    precision: str  # "fp32", "bf16" or "fp16"
    run: str = ""  # path or URI of the folder with the weights
    notes: tuple[str, ...] = ()  # messages for the user, such as that no best checkpoint was chosen
    fused: tuple["SpeakerEncoder", ...] = ()  # the encoders given to `fuse`; `config` is the first one's

    @classmethod
    def load(
        cls,
        location: str | os.PathLike[str],
        which: str = "best",
        *,
        device: str | None = None,
        precision: str | None = None,
    ) -> "SpeakerEncoder":
        """Load the weights of a run folder (or URI) or of one checkpoint file.

        `which` is `best` (by validation; the last checkpoint if nothing was validated), `last`, `average`
        (of the newest 10 checkpoints at most) or a file name. `device` defaults to a GPU if there is one,
        `precision` to that of the training; a CPU uses fp32 for fp16. Raises ValueError, FileNotFoundError.
        """
        torch_device = _device(device)
        folder, checkpoints, notes = _read(os.fspath(location), which)
        saved = list(checkpoints.values())
        config = _settings(saved[-1], folder)
        with torch.random.fork_rng(devices=[]):  # The random initial weights are overwritten.
            model = build_model(config, CorpusSize(*saved[-1].corpus_size))
        try:
            model.load_state_dict(checkpoint.average([each.model for each in saved]))
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {folder.location} do not fit this version's {config.model.name}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        steps = tuple(each.step for each in saved)
        precision = precision or config.train.precision
        choices = ", ".join(PRECISIONS)
        refuse_if(precision not in PRECISIONS, f"precision is {precision!r}; choose one of {choices}")
        if precision == "fp16" and torch_device.type == "cpu":  # a CPU has no fp16 arithmetic
            precision = "fp32"
        # This memory format is a fifth faster on CPUs, also in fp32.
        model = model.to(memory_format=torch.channels_last).to(torch_device).eval()
        return cls(model, config, tuple(checkpoints), steps, precision, folder.location, notes)

    def fuse(self, others: Sequence["SpeakerEncoder"]) -> "SpeakerEncoder":
        """Return an encoder that averages the cosines of this one and `others`, with this one's settings."""
        encoders = (self, *others)
        notes = tuple(dict.fromkeys(note for each in encoders for note in each.notes))
        return replace(self, model=_Fused([each.model for each in encoders]), fused=encoders, notes=notes)

    @property
    def parts(self) -> tuple["SpeakerEncoder", ...]:
        """Return the fused encoders, or this encoder alone if it fuses none."""
        return self.fused or (self,)

    def with_root(self, root: str) -> "SpeakerEncoder":
        """Return a copy of the encoder, and of the encoders that it fuses, with another `data.root`."""
        config = replace(self.config, data=replace(self.config.data, root=root))
        return replace(self, config=config, fused=tuple(each.with_root(root) for each in self.fused))

    def describe(self) -> dict[str, Any]:
        """Return a description of the weights, for evaluation.json and calibration.json."""
        others = [each.describe() for each in self.fused[1:]]
        return {
            "run": self.run,
            "checkpoint": {"files": list(self.checkpoints), "steps": list(self.steps)},
            "identity": self.identity,
            "precision": self.precision,
        } | ({"fused_with": others} if others else {})

    @cached_property
    def calibration(self) -> Calibration | None:
        """Return the calibration of cosines that an evaluation wrote for this encoder, or None."""
        folder = RunFolder.at(self.run)
        stored = folder.read_json(CALIBRATION_FILE) if folder.has(CALIBRATION_FILE) else {}
        return Calibration(**stored[self.identity]["calibration"]) if self.identity in stored else None

    @property
    def is_calibratable(self) -> bool:
        """Return False if fused encoders validate on different trials: one may have trained on another's."""
        has_trials = self.config.evaluation.has_validation_trials
        return not has_trials or len({_validated_on(each.config) for each in self.parts}) == 1

    @cached_property
    def identity(self) -> str:
        """Return a digest of the weights, the code that turns files into embeddings, and the precision."""
        if self.fused:
            return hashlib.sha256(" ".join(each.identity for each in self.fused).encode()).hexdigest()[:16]
        # File names hold the checksums of the weights.
        digest = hashlib.sha256(" ".join([*self.checkpoints, self.precision]).encode())
        package = Path(sslsv.__file__).parent
        for part in (*FRONT_END, f"models/{self.config.model.name}.py"):
            for file in sorted((package / part).rglob("*.py")) or [package / part]:
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.model.parameters()).device

    def embedder(self) -> Embedder:
        """Return an embedder for many recordings."""
        return Embedder(self.model, self.device, self.precision, self.config.evaluation.batch_seconds)

    def embed(self, recording: AudioInput) -> Embedding:
        """Return the embedding (D,) of an audio file, or of a waveform (T,).

        Waveforms are at 16 kHz, int16 or floats of full scale 1. Raises AudioError for a file that can't be
        read, ValueError for an array that is not a waveform.
        """
        is_file = isinstance(recording, str | os.PathLike)
        samples = read_whole(recording) if is_file else np.asarray(recording)  # type: ignore[arg-type]
        is_int16 = samples.dtype == np.int16
        waveform = to_waveform(samples) if is_int16 else samples.astype(np.float32)
        is_audio = (is_int16 or samples.dtype.kind == "f") and waveform.ndim == 1 and waveform.size
        if not is_audio or not np.isfinite(waveform).all():
            raise ValueError(
                f"an array of {samples.dtype} of shape {samples.shape} is not a waveform; it must be (T,), "
                "mono at 16 kHz, int16 or floats of full scale 1, with one sample or more, all finite"
            )
        return self.embedder().embed_recordings(lambda _: waveform, 1)[0][0]  # type: ignore[no-any-return]

    def compare(self, enrolment: Sequence[AudioInput], test: AudioInput, p_target: float = 0.5) -> Comparison:
        """Compare a recording with the mean direction of a speaker's enrolment; `p_target` is the prior."""
        if isinstance(enrolment, str | os.PathLike) or getattr(enrolment, "ndim", 2) == 1:
            raise ValueError("the enrolment must be a list of recordings, also for a single one: [recording]")
        if not len(enrolment):
            raise ValueError("no enrolment recordings are given; a speaker needs at least one")
        *enrol_rows, test_row = unit_rows([self.embed(recording) for recording in (*enrolment, test)])
        cosine = float(np.clip(unit_rows([np.mean(enrol_rows, axis=0)]) @ test_row, -1, 1)[0])
        if self.calibration is None:
            return Comparison(cosine)
        llr = float(self.calibration.apply(cosine))
        return Comparison(cosine, llr, float(posterior(llr, p_target)))


class _Fused(Model):
    # Concatenates the embeddings of several models, scaled to equal length so that cosines are averaged.

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__(None)
        self.parts: Any = nn.ModuleList(models)
        self.needs_labels = any(model.needs_labels for model in models)

    @property
    def embedding_dim(self) -> int:
        return sum(model.embedding_dim for model in self.parts)

    @property
    def min_samples(self) -> int:
        return int(max(model.min_samples for model in self.parts))

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        raise NotImplementedError("fused encoders can embed, but not be trained")

    def embed(self, waveforms: Tensor) -> Tensor:
        rows = [F.normalize(model.embed(waveforms).float(), dim=1) for model in self.parts]
        fused: Tensor = torch.cat(rows, dim=1) / len(rows) ** 0.5
        return fused


def _validated_on(config: Config) -> tuple[Any, ...]:
    # Returns the settings that determine the validation trials: those of held-out speakers, or the list.
    data, evaluation = config.data, config.evaluation
    if evaluation.held_out_speakers:
        return data.held_out_lists or data.train_lists, evaluation.held_out_speakers, config.seed
    return (evaluation.validation,)


def _read(location: str, which: str) -> tuple[RunFolder, dict[str, Checkpoint], tuple[str, ...]]:
    """Return the folder, the requested checkpoints by file name, oldest first, and notes for the user."""
    if location.endswith(".pt"):
        parent, name = posixpath.split(absolute(location))
        folder = RunFolder.at(parent)
        if not folder.has(name):
            raise FileNotFoundError(f"the checkpoint {location} does not exist")
        checkpoints = {name: checkpoint.decode_checkpoint(folder.read(name), name, location)}
        # A file in `checkpoints/` belongs to the run above; a copied file belongs to the folder it is in.
        is_in_run = posixpath.basename(parent) == checkpoint.FOLDER
        return RunFolder.at(posixpath.dirname(parent)) if is_in_run else folder, checkpoints, ()
    folder, notes = RunFolder.at(location), tuple[str, ...]()
    last = checkpoint.find_checkpoint(folder, "last")
    newest, names = checkpoint.read_checkpoint(folder, last), [last]
    if which == "best" and newest.best_step is None:
        notes = (
            f"no best checkpoint was chosen in {folder.location}: the last, step {newest.step}, is used",
        )
    elif which == "average":
        # The best checkpoint may be much older than the others and must not be averaged with them.
        num_kept = _settings(newest, folder).run.keep_checkpoints
        names = checkpoint.newest_checkpoints(folder, NUM_AVERAGED, num_kept)
    elif which != "last":
        names = [checkpoint.find_checkpoint(folder, which)]
    others = {name: checkpoint.read_checkpoint(folder, name) for name in names if name != last}
    return folder, {name: others.get(name, newest) for name in names}, notes


def _settings(saved: Checkpoint, folder: RunFolder) -> Config:
    try:
        return read_config(saved.config)
    except ConfigError as error:
        raise ValueError(
            f"the settings in the checkpoints of {folder.location} were written by another version: {error}"
        ) from error


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the device {name} can't be used here ({str(error).splitlines()[0]}); give cpu, or leave it out"
        ) from error
    return device
