"""Embeddings of many recordings, whole or in crops: each made once and kept on disk.

One file per set of weights, front end, precision and crops, named by a digest of them all, so embeddings of
other weights are never taken for these.  A recording is the same while its path, size and time of change are.
"""

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from sslsv.data.audio import SAMPLE_RATE, AudioError, Waveform, wrap_to_length
from sslsv.data.recordings import Packed, Recordings, open_recordings
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.folder import RunFolder, is_uri

Floats = npt.NDArray[np.float32]
Embed = Callable[[list[str], str], tuple[Floats, dict[int, str]]]  # of paths below a folder

SUBFOLDER = "embeddings"
FEW = 1000  # recordings that are not worth starting other processes for
PART = 16  # recordings that a process embeds at a time


@dataclass(frozen=True)
class Crops:
    """Evenly spaced crops of a recording, embedded apart: `count` of `seconds` each, the field's 10 x 4 s."""

    count: int = 10
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds < 0.1:
            raise ValueError(
                f"{self.count} crops of {self.seconds:g} seconds were asked for; there must be at least 1, "
                "of 0.1 seconds or more"
            )

    def of(self, waveform: Waveform) -> list[Waveform]:
        """The crops of a waveform (T,); one that is too short is repeated first."""
        length = round(self.seconds * SAMPLE_RATE)
        if len(waveform) < length:
            waveform = wrap_to_length(waveform, length)
        starts = np.linspace(0, len(waveform) - length, self.count).round().astype(int)
        return [waveform[start : start + length] for start in starts]


def embed_recordings(
    encoder: SpeakerEncoder, read: Callable[[int], Waveform], count: int, crops: Crops | None
) -> tuple[Floats, dict[int, str]]:
    """Embeddings (count, D) of recordings `read(i)`, and why some can't be read (their rows are 0).

    Of crops, the mean of the unit embeddings: its dot product with another's is the mean cosine of all
    pairs of crops.
    """
    embedder = encoder.embedder()
    if crops is None:
        return embedder.embed_recordings(read, count)
    rows = np.zeros((count, encoder.embedding_dim), dtype=np.float32)
    bad: dict[int, str] = {}
    for i in range(count):
        try:
            embedded = embedder.embed(crops.of(read(i)))
        except AudioError as error:
            bad[i] = str(error)
            continue
        rows[i] = torch.nn.functional.normalize(embedded, dim=1).mean(0).numpy()
    return rows, bad


def embed_files(
    encoder: SpeakerEncoder, paths: Sequence[str], root: str, crops: Crops | None = None
) -> tuple[Floats, dict[int, str]]:
    """Embeddings (N, D) of recordings below a folder, packed or not; see `embed_recordings`."""
    recordings = open_recordings(root)
    return embed_recordings(encoder, lambda i: recordings.read_whole(paths[i]), len(paths), crops)


def uses_processes(count: int, workers: int | None, device: str | None) -> bool:
    """Whether to embed `count` recordings in other processes; raises ValueError where `device` is one GPU."""
    is_one_gpu = device is not None and ":" in device
    if workers is not None and is_one_gpu:
        raise ValueError(
            f"the device {device} is one GPU, while each of {workers} processes takes one of its own: leave "
            "out --workers, or name no GPU and choose with CUDA_VISIBLE_DEVICES"
        )
    return workers is not None or (count > FEW and not is_one_gpu)


class EmbeddingStore:
    """Embeddings of recordings by one encoder, from the run folder or made now.

    `embed` makes those of a list of files below a folder; the default does it in this process.  A run folder
    that can't be written to is no error: the embeddings are made again next time, and a line says so.
    """

    def __init__(
        self,
        encoder: SpeakerEncoder,
        folder: RunFolder,
        crops: Crops | None = None,
        embed: Embed | None = None,
    ) -> None:
        self.folder, self.crops = folder, crops
        self.embed: Embed = embed or (lambda paths, root: embed_files(encoder, paths, root, crops))
        key = hashlib.sha256(f"{encoder.identity} {crops}".encode()).hexdigest()[:16]
        self.file = f"{SUBFOLDER}/{key}.npz"
        self.known: dict[str, tuple[int, int, int]] = {}  # path: row, size, time of change
        self.rows: Floats = np.zeros((0, encoder.embedding_dim), dtype=np.float32)
        if folder.has(self.file):
            self._read()

    def get(self, paths: Sequence[str], root: str) -> tuple[Floats, dict[int, str]]:
        """Embeddings (N, D) of files below a folder, and why some can't be read, by place in `paths`.

        The rows of those are 0.
        """
        recordings = open_recordings(root)
        full = [recordings.location(path) for path in paths]
        full = [path if is_uri(path) else os.path.realpath(path) for path in full]
        stamps = [_stamp(recordings, path) for path in full]
        missing = [
            i
            for i, (path, stamp) in enumerate(zip(full, stamps, strict=True))
            if self.known.get(path, ())[1:] != stamp
        ]
        bad: dict[int, str] = {}
        if missing:
            made, unreadable = self.embed([paths[i] for i in missing], root)
            bad = {missing[i]: why for i, why in unreadable.items()}
            start = len(self.rows)
            self.rows = np.concatenate([self.rows, made])
            for offset, i in enumerate(missing):
                if i not in bad:
                    self.known[full[i]] = (start + offset, *stamps[i])
            self._write()
        result = np.zeros((len(paths), self.rows.shape[1]), dtype=np.float32)
        good = [i for i in range(len(paths)) if i not in bad]
        result[good] = self.rows[[self.known[full[i]][0] for i in good]]
        return result, bad

    def _read(self) -> None:
        try:
            with np.load(io.BytesIO(self.folder.read(self.file)), allow_pickle=False) as saved:
                paths = saved["paths"].tobytes().decode(errors="surrogateescape").split("\n")
                sizes, times, self.rows = (
                    saved["sizes"].tolist(),
                    saved["times"].tolist(),
                    saved["embeddings"],
                )
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:  # cut short, say
            print(f"embeddings in {self.file} can't be read ({error}) and are made again", file=sys.stderr)
            return
        self.known = {path: (i, sizes[i], times[i]) for i, path in enumerate(paths) if path}

    def _write(self) -> None:
        paths = list(self.known)
        numbers = np.array([self.known[path] for path in paths], dtype=np.int64).reshape(-1, 3)
        self.rows = self.rows[numbers[:, 0]]
        self.known = {path: (i, *self.known[path][1:]) for i, path in enumerate(paths)}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            paths=np.frombuffer("\n".join(paths).encode(errors="surrogateescape"), dtype=np.uint8),
            sizes=numbers[:, 1],
            times=numbers[:, 2],
            embeddings=self.rows,
        )
        try:
            self.folder.write(self.file, buffer.getvalue())
        except OSError as error:
            print(f"embeddings are not kept for the next time: {error}", file=sys.stderr)


def _stamp(recordings: Recordings, path: str) -> tuple[int, int]:
    """Size and time of change of a file, or of the index of the packed folder that it is in.

    Of what is not there, a stamp that nothing has.
    """
    if isinstance(recordings, Packed):
        return recordings.stamp
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def longest_first(recordings: Recordings, paths: Sequence[str]) -> list[int]:
    """Order of recordings by falling length, so that equal ones are neighbours and can be embedded together.

    The longest come first so that processes side by side end at about the same time; unreadable ones, last.
    """
    lengths = np.zeros(len(paths), dtype=np.int64)
    for i, path in enumerate(paths):
        with contextlib.suppress(AudioError), recordings.open(path) as recording:
            lengths[i] = recording.num_samples
    order: list[int] = np.argsort(-lengths, kind="stable").tolist()
    return order


def parts_of(paths: Sequence[str]) -> list[list[str]]:
    """Consecutive parts of at most `PART` paths."""
    return [list(paths[start : start + PART]) for start in range(0, len(paths), PART)]
