"""A trained encoder, ready to use: load it, embed recordings, compare them.

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

import numpy as np
import numpy.typing as npt
import torch

import sslsv
from sslsv.build import build_model
from sslsv.config import Config, ConfigError, read_config
from sslsv.data.audio import AudioError, read_whole
from sslsv.evaluation.calibration import Calibration, posterior
from sslsv.evaluation.verification import Embedder, checked_waveform
from sslsv.models.base import CorpusSize, Model
from sslsv.runs.checkpoint import (
    FOLDER,
    Checkpoint,
    average,
    decode_checkpoint,
    find_checkpoint,
    newest_checkpoints,
    read_checkpoint,
)
from sslsv.runs.folder import RunFolder, absolute, open_filesystem

Floats = npt.NDArray[np.float32]

NUM_AVERAGED = 5  # newest checkpoints, where nobody says how many
CALIBRATION_FILE = "calibration.json"
# What turns a file into what the weights see: embeddings made by other code are other embeddings.
FRONT_END = (
    *("data/audio.py", "data/wav.py", "data/rounding.py", "data/recordings.py", "data/shards.py"),
    *("encoders", "modules.py", "models/base.py", "verification.py", "embeddings.py"),
)


@dataclass(frozen=True)
class Comparison:
    """What two sides have in common; the last three are None without a calibration."""

    cosine: float  # -1 to 1
    llr: float | None = None  # natural log of P(evidence | same speaker) / P(evidence | different speakers)
    probability: float | None = None  # that they are the same speaker, given `p_target`
    p_target: float | None = None  # prior probability of the same speaker that `probability` starts from


@dataclass(frozen=True)
class SpeakerEncoder:
    """An encoder with trained weights, and how its scores are read; see the module's first lines."""

    model: Model
    config: Config
    checkpoints: tuple[str, ...]  # file names; several if their weights are averaged
    steps: tuple[int, ...]  # optimizer steps of each
    precision: str  # "fp32", "bf16" or "fp16"
    calibration: Calibration | None = None  # of cosine scores; written by an evaluation
    run: str = ""  # location of the folder that the weights were found in

    @classmethod
    def load(
        cls,
        location: str | os.PathLike[str],
        which: str = "best",
        *,
        device: str | None = None,
        precision: str | None = None,
        num_averaged: int = NUM_AVERAGED,
    ) -> "SpeakerEncoder":
        """Load the weights of a run.

        `location` is a run folder (or URI) or one checkpoint file; `which` is `best` (by validation), `last`,
        `average` (of the newest `num_averaged` checkpoints that were kept) or a file name. `device` defaults
        to the GPU, if there is one, `precision` to that of the training. Raises ValueError or
        FileNotFoundError with a sentence.
        """
        target = _device(device)
        folder, found = _read(os.fspath(location), which, num_averaged)
        config = _settings(list(found.values())[-1], folder)
        model = build_model(config, CorpusSize(*list(found.values())[-1].corpus_size))
        try:
            model.load_state_dict(average([checkpoint.model for checkpoint in found.values()]))
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {folder.location} do not fit this version's {config.model.name}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        # A fifth faster on CPUs that have bf16, and in fp32; the weights are the same.
        model.to(memory_format=torch.channels_last)
        encoder = cls(
            model.to(target).eval(),
            config,
            tuple(found),
            tuple(checkpoint.step for checkpoint in found.values()),
            _fitting_precision(precision or config.train.precision, target),
            run=folder.location,
        )
        return encoder.with_calibration(folder)

    def with_calibration(self, folder: RunFolder) -> "SpeakerEncoder":
        """The same encoder with the calibration that an evaluation left in the run folder, if it did."""
        if not folder.has(CALIBRATION_FILE):
            return self
        saved = folder.read_json(CALIBRATION_FILE).get(self.identity)
        if saved is None:
            return self
        return replace(self, calibration=Calibration.from_dict(saved["calibration"]))

    @cached_property
    def identity(self) -> str:
        """Digest of the weights, the code that computes features from files, and the precision."""
        digest = hashlib.sha256(" ".join([*self.checkpoints, self.precision]).encode())
        package = Path(sslsv.__file__).parent
        for part in FRONT_END:
            for file in sorted((package / part).rglob("*.py")) or [package / part]:
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def embedding_dim(self) -> int:
        """Values per embedding."""
        return int(self.model.encoder.embedding_dim)  # type: ignore[arg-type]

    def embedder(self, batch_seconds: float | None = None) -> Embedder:
        """What embeds many recordings; at most `batch_seconds` of audio at once."""
        seconds = batch_seconds or self.config.evaluation.batch_seconds
        return Embedder(self.model, self.device, self.precision, seconds)

    def embed(self, recording: str | os.PathLike[str] | Floats) -> Floats:
        """Embedding (D,) of an audio file, or of a waveform (T,), float32 of full scale 1 at 16 kHz.

        Raises AudioError for a file that can't be read, ValueError for what is no waveform.
        """
        if isinstance(recording, str | os.PathLike):
            waveform = read_whole(recording)
        else:
            waveform = checked_waveform(recording)
        embeddings, bad = self.embedder().embed_recordings(lambda _: waveform, 1)
        if bad:
            raise AudioError(bad[0])
        row: Floats = embeddings[0]
        return row

    def enrol(self, recordings: Sequence[str | os.PathLike[str] | Floats]) -> Floats:
        """One unit embedding (D,) for a speaker: the mean direction of those of several recordings."""
        if isinstance(recordings, str | os.PathLike) or getattr(recordings, "ndim", 2) == 1:
            raise ValueError("one enrolment recording is given by itself; put it into a list: [recording]")
        if not len(recordings):
            raise ValueError("no enrolment recordings are given; a speaker needs at least one")
        mean = np.mean([_unit(self.embed(recording)) for recording in recordings], axis=0)
        return _unit(mean)

    def compare(
        self,
        enrolment: Sequence[str | os.PathLike[str] | Floats],
        test: str | os.PathLike[str] | Floats,
        p_target: float = 0.5,
    ) -> Comparison:
        """Compare one recording with a speaker's enrolment recordings."""
        cosine = float(np.clip(self.enrol(enrolment) @ _unit(self.embed(test)), -1, 1))
        if self.calibration is None:
            return Comparison(cosine)
        llr = float(self.calibration.apply(np.array([cosine]))[0])
        return Comparison(cosine, llr, float(posterior(llr, p_target)), p_target)


def folder_of(location: str | os.PathLike[str]) -> RunFolder:
    """The run folder at a location; of a checkpoint file the one it is in, of a copied one its folder."""
    path = os.fspath(location)
    if not path.endswith(".pt"):
        return RunFolder.at(path)
    parent = posixpath.dirname(absolute(path))
    return RunFolder.at(posixpath.dirname(parent) if posixpath.basename(parent) == FOLDER else parent)


def _read(location: str, which: str, num_averaged: int) -> tuple[RunFolder, dict[str, Checkpoint]]:
    """The run's folder and the checkpoints asked for, by file name, oldest first."""
    if which.endswith(".pt") and os.path.isfile(which):
        location = which
    if location.endswith(".pt"):
        filesystem, path = open_filesystem(absolute(location))
        try:
            with filesystem.open_input_stream(path) as file:
                content = file.read()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise FileNotFoundError(f"the checkpoint {location} does not exist") from error
        name = posixpath.basename(path)
        return folder_of(location), {name: decode_checkpoint(content, name, location)}
    folder = folder_of(location)
    if which != "average":
        names = [find_checkpoint(folder, which)]
    else:
        # The best checkpoint is kept beside the newest ones, however old it is: no neighbour of theirs.
        newest = read_checkpoint(folder, find_checkpoint(folder, "last"))
        kept = _settings(newest, folder).run.keep_checkpoints
        names = newest_checkpoints(folder, num_averaged, kept)
    return folder, {name: read_checkpoint(folder, name) for name in names}


def _settings(checkpoint: Checkpoint, folder: RunFolder) -> Config:
    try:
        return read_config(checkpoint.config)
    except ConfigError as error:
        raise ValueError(
            f"the settings in the checkpoints of {folder.location} are of another version of this package: "
            f"{error}"
        ) from error


def _device(name: str | None) -> torch.device:
    """The device of this name, or a ValueError where there is none."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the device {name} can't be used here ({str(error).splitlines()[0]}); give cpu, or leave it out"
        ) from error
    return device


def _fitting_precision(precision: str, device: torch.device) -> str:
    """fp16 is for GPUs alone; on a CPU such a run is evaluated in fp32."""
    return "fp32" if precision == "fp16" and device.type == "cpu" else precision


def _unit(row: Floats) -> Floats:
    unit: Floats = (row / max(float(np.linalg.norm(row)), 1e-12)).astype(np.float32)
    return unit
