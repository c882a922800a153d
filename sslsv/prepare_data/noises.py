"""Download MUSAN (11 GB) and the simulated room impulse responses (OpenSLR 28, 1.3 GB), and unpack them.

MUSAN is cut into pieces of 8 s below FOLDER/musan_split, and no sample is lost: a file shorter than 8 s is
one piece, and so is what remains at a file's end; only a rest below 1 s stays with the piece before it.  The
impulse responses go into FOLDER/simulated_rirs.  Have you extracted them already?  Link them (a whole MUSAN
serves as well as its pieces): ln -s /my/musan FOLDER/musan_split.
"""

import argparse
import io
import itertools
from pathlib import Path

import soundfile

from sslsv.prepare_data.archives import extract, read_tar
from sslsv.prepare_data.disk import check_space, progress, write_whole
from sslsv.prepare_data.download import add_source_arguments, install

CATEGORIES = ("music", "noise", "speech")
PIECE_SECONDS = 8
MIN_LAST_SECONDS = 1

_NUM_FILES = 2016  # all files of MUSAN, to reckon the time left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the commands `musan` and `rirs` take."""
    add_source_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run one command; returns 1 when some files could not be read or extracted."""
    if options.command == "musan":
        return install("musan", "musan_split", options, _cut_musan)
    return install("rirs", "simulated_rirs", options, _extract_rirs)


def _cut_musan(archives: dict[str, list[Path]], folder: Path) -> bool:
    (paths,) = archives.values()
    present = sum(path.stat().st_size for path in folder.rglob("*.wav"))
    # gzip leaves speech and music hardly smaller.
    check_space(folder, 1.1 * sum(path.stat().st_size for path in paths) - present, "Cutting MUSAN")
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
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, file.samplerate, subtype=file.subtype, format="WAV")
            write_whole(piece, buffer.getvalue())


def _extract_rirs(archives: dict[str, list[Path]], folder: Path) -> bool:
    (paths,) = archives.values()
    return extract(paths, _rir_place_of, folder, "rirs")


def _rir_place_of(name: str) -> str | None:
    # The archive's real rooms and point noises are left out.
    _, separator, place = name.partition("simulated_rirs/")
    return place if separator and place.endswith(".wav") else None
