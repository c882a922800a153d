"""Does an exported encoder compute what the trained one does?  Their embeddings, compared batch by batch."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sslsv.data.audio import SAMPLE_RATE, AudioError, AudioFile, read_whole, wrap_to_length
from sslsv.data.manifest import read_train_lists, read_trials
from sslsv.evaluation.verification import MIN_SAMPLES
from sslsv.prepare_data.demo import Voice, draw_room, record, speak

Floats = npt.NDArray[np.float32]
Embed = Callable[[Floats], Floats]  # waveforms (B, T) of full scale 1 at 16 kHz -> embeddings (B, D)

MIN_COSINE = 0.9999  # below it, scores would move by more than the last digit that anyone prints
SYNTHETIC_SECONDS = (0.5, 1.0, 2.0, 3.7, 5.0, 10.0, 20.0)
ROWS_OF_A_BATCH = 4
REPETITIONS = 3  # the fastest one counts: the first also pays for what later ones reuse


@dataclass(frozen=True)
class Parity:
    """How far two encoders agree on one batch; seconds are those of the fastest of a few runs."""

    name: str
    rows: int
    seconds: float  # length of each waveform
    max_difference: float  # largest absolute difference of any value of any embedding
    min_cosine: float  # between the two embeddings of a waveform, the lowest over the batch
    torch_seconds: float
    exported_seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether the embeddings may be used in place of each other; NaN is not."""
        return self.min_cosine >= MIN_COSINE


def embed_with(encoder: nn.Module) -> Embed:
    """The encoder, in torch, as a function of arrays."""

    def embed(waveforms: Floats) -> Floats:
        with torch.inference_mode():
            embeddings: Floats = encoder(torch.from_numpy(waveforms)).numpy()
        return embeddings

    return embed


def measure_parity(original: Embed, exported: Embed, name: str, waveforms: Floats) -> Parity:
    """Compare two ways to embed the same waveforms (B, T)."""
    expected, torch_seconds = _timed(lambda: original(waveforms))
    found, exported_seconds = _timed(lambda: exported(waveforms))
    if found.shape != expected.shape:
        raise ValueError(f"the export gives {found.shape} for {name}, the encoder {expected.shape}")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):  # an embedding of zeros has no direction: NaN, hence not equal
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return Parity(
        name,
        len(waveforms),
        waveforms.shape[1] / SAMPLE_RATE,
        float(np.abs(a - b).max()),
        float(cosines.min()),
        torch_seconds,
        exported_seconds,
    )


def synthetic_batches(seed: int = 0) -> Iterator[tuple[str, Floats]]:
    """Synthetic utterances of 0.5 to 20 s, one at a time, then a batch: (name, (B, T))."""
    rng = np.random.default_rng(seed)

    def utterance(seconds: float) -> Floats:
        speech = speak(Voice(rng), seconds, rng)
        return record(speech, draw_room(rng, 0.3), noise_snr_db=30.0, level_db=-6.0, rng=rng)

    for seconds in SYNTHETIC_SECONDS:
        yield "synthetic", utterance(seconds)[None]
    yield "synthetic", np.stack([utterance(3.0) for _ in range(ROWS_OF_A_BATCH)])


def recorded_batches(paths: list[str]) -> Iterator[tuple[str, Floats]]:
    """Whole recordings, one at a time, then the first few of them cut to one length as a batch.

    Raises AudioError for one that can't be read.
    """
    kept: list[Floats] = []
    for path in paths:
        waveform = read_whole(path)
        if len(waveform) < MIN_SAMPLES:  # as everywhere in the package: shorter ones are repeated
            waveform = wrap_to_length(waveform, MIN_SAMPLES)
        if len(kept) < ROWS_OF_A_BATCH:
            kept.append(waveform)
        yield path, waveform[None]
    if len(kept) > 1:
        shortest = min(len(waveform) for waveform in kept)
        yield f"the first {len(kept)}, cut", np.stack([waveform[:shortest] for waveform in kept])


def find_recordings(names: Iterable[str]) -> list[str]:
    """Paths of recordings, each once, from audio files and from lists of them.

    A list has lines of one path, of a training list or of a trial list, relative to the folder it is in.
    Raises AudioError or ValueError for what is neither.
    """
    found: dict[str, None] = {}
    for name in names:
        try:
            AudioFile(name).close()
            found[name] = None
        except AudioError as error:
            found |= dict.fromkeys(_listed(Path(name), error))
    return list(found)


def _listed(file: Path, not_audio: AudioError) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise not_audio from None
    match len(lines[0].split()) if lines else 0:
        case 1:
            paths = lines
        case 2:
            paths = read_train_lists(file.parent, [file.name]).paths
        case 3:
            paths = read_trials(file.parent, file.name).paths
        case _:
            raise not_audio
    return [str(file.parent / path) for path in paths]


def _timed(run: Callable[[], Floats]) -> tuple[Floats, float]:
    """What `run` returns, and the seconds of the fastest of a few calls."""
    fastest = float("inf")
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        result = run()
        fastest = min(fastest, time.perf_counter() - start)
    return result, fastest
