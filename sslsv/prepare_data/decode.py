"""Compressed recordings (VoxCeleb2's AAC) to 16 kHz mono, by the FFmpeg libraries inside PyAV."""

import io
import socket
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile

from sslsv.data.audio import SAMPLE_RATE, AudioError
from sslsv.prepare_data.archives import ArchiveError, ZipEntry, open_parts, read_entry
from sslsv.prepare_data.disk import write_whole

Item = tuple[str | ZipEntry, str]  # a file, or its place in the archive; and where its samples go
Failure = tuple[str, str]  # where the samples would have gone; why they could not

_MISSING_SECONDS = 0.2  # what a complete recording may lack: an AAC frame is 64 ms at 16 kHz


def decode(content: bytes) -> npt.NDArray[np.int16]:
    """Samples of an audio file in any of FFmpeg's formats, (T,) at 16 kHz, channels averaged.

    Raises AudioError when it is damaged, ends before the length in its header, or has no sound.
    """
    pieces: list[npt.NDArray[np.int16]] = []
    expected_seconds = 0.0
    try:
        with av.open(io.BytesIO(content)) as container:
            if not container.streams.audio:
                raise AudioError("it has no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # so it is where a header names a codec that FFmpeg lacks
                raise AudioError("its codec is unknown: its header is damaged")
            stream.codec_context.thread_count = 1
            if stream.duration and stream.time_base:
                expected_seconds = float(stream.duration * stream.time_base)
            to_mono = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in (*container.decode(stream), None):
                pieces += [out.to_ndarray()[0] for out in to_mono.resample(frame)]
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AudioError(f"it can't be decoded ({reason})") from error
    samples = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int16)
    if not len(samples):
        raise AudioError("it holds no samples")
    seconds = len(samples) / SAMPLE_RATE
    if seconds < expected_seconds - _MISSING_SECONDS:
        raise AudioError(f"it ends after {seconds:.2f} of {expected_seconds:.2f} s")
    return samples


def duration_seconds(content: bytes) -> float:
    """Length of an audio file as its header says it, 0 where it says nothing or can't be read."""
    try:
        with av.open(io.BytesIO(content)) as container:
            return (container.duration or 0) / 1e6
    except (av.FFmpegError, ValueError):
        return 0.0


def convert_batch(archive: Sequence[str], items: Sequence[Item], folder: str, witness: str) -> list[Failure]:
    """Decode each item into `folder`, in a 16-bit file of the kind that its name says; returns the failures.

    `witness` is a file that the driver has made in the folder: a machine that does not see it would write
    where nobody looks, and raises OSError instead.
    """
    if not (Path(folder) / witness).exists():
        raise OSError(
            f"The machine {socket.gethostname()} does not see {folder}: data.root must be on storage that "
            "all machines of the cluster share, under the same path (or convert on this one: --cpus N)."
        )
    failures = []
    with open_parts([Path(path) for path in archive]) as joined:
        for source, place in items:
            try:
                content = Path(source).read_bytes() if isinstance(source, str) else read_entry(joined, source)
                samples = decode(content)
            except (AudioError, ArchiveError) as error:
                failures.append((place, str(error)))
                continue
            except OSError as error:  # of this source alone; one of writing ends the whole conversion
                failures.append((place, f"it can't be read ({error.strerror or error})"))
                continue
            buffer = io.BytesIO()
            kind = Path(place).suffix[1:].upper()
            soundfile.write(buffer, samples, SAMPLE_RATE, subtype="PCM_16", format=kind)
            write_whole(Path(folder) / place, buffer.getvalue())
    return failures
