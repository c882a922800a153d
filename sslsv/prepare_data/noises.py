"""Unpack MUSAN and the simulated room impulse responses below data.root; see all.py.

MUSAN is cut into pieces of 8 s, and no sample is lost: a file shorter than 8 s is one piece, and so is what
remains at a file's end; only a rest below 1 s stays with the piece before it.
"""

import argparse
import io
import itertools
from pathlib import Path

import soundfile

from sslsv.prepare_data.archives import extract, read_tar
from sslsv.prepare_data.disk import progress, write_audio
from sslsv.prepare_data.download import Archives

CATEGORIES = ("music", "noise", "speech")
PIECE_SECONDS = 8
MIN_LAST_SECONDS = 1

_NUM_FILES = 2016  # all files of MUSAN, to reckon the time left


def cut_musan(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the pieces of MUSAN's files that are not there yet; returns True."""
    (paths,) = archives.values()
    num_read = 0
    with progress("cut musan", _NUM_FILES) as bar:
        for name, content in read_tar(paths, ".wav"):
            if place := place_of(name):
                cut(content, folder / place)
                num_read += 1
                bar.update()
    if not num_read:
        raise ValueError(f"{paths[0]} holds no wav file of music, noise or speech: it is not MUSAN.")
    return True


def place_of(name: str) -> str | None:
    """Return the path below musan_split/ of a file of MUSAN (`musan/noise/fs/x.wav`), or None."""
    _, _, place = f"/{name}".rpartition("/musan/")
    is_wav = place.endswith(".wav") and not place.rpartition("/")[2].startswith(".")
    return place if is_wav and place.partition("/")[0] in CATEGORIES else None


def piece_bounds(num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """Return first and last (exclusive) sample of each piece; they follow each other and cover everything."""
    starts = list(range(0, num_samples, PIECE_SECONDS * sample_rate))
    if len(starts) > 1 and num_samples - starts[-1] < MIN_LAST_SECONDS * sample_rate:
        starts.pop()
    return [*itertools.pairwise([*starts, num_samples])]


def cut(content: bytes, target: Path) -> None:
    """Write the pieces of a file: NAME_00000.wav, NAME_00008.wav ..., named by the second they begin at."""
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        for start, end in piece_bounds(file.frames, file.samplerate):
            piece = target.with_name(f"{target.stem}_{start // file.samplerate:05d}.wav")
            if piece.exists():
                continue
            file.seek(start)
            samples = file.read(end - start, dtype="int16" if file.subtype == "PCM_16" else "float32")
            write_audio(piece, samples, file.samplerate, file.subtype)


def extract_rirs(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the simulated impulse responses; returns whether all are there."""
    (paths,) = archives.values()
    return extract(paths, _rir_place_of, folder, "rirs")


def _rir_place_of(name: str) -> str | None:
    # The archive's real rooms and point noises are left out.
    _, separator, place = name.partition("simulated_rirs/")
    return place if separator and place.endswith(".wav") else None
