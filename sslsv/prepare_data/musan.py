"""Download MUSAN (11 GB), check it and cut it into pieces of 8 s below FOLDER/musan_split.

No sample is lost: a file shorter than 8 s is one piece, and so is what remains at a file's end; only a rest
below 1 s stays with the piece before it.  The archive is read in one pass and never extracted.
"""

import argparse
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import soundfile

from sslsv.prepare_data.archives import read_tar
from sslsv.prepare_data.disk import check_room, write_whole
from sslsv.prepare_data.existing import files_below, find_folders
from sslsv.prepare_data.obtain import delete_sources, is_at_hand, obtain
from sslsv.prepare_data.progress_line import ProgressLine
from sslsv.prepare_data.record import count_files, is_prepared, record_prepared
from sslsv.prepare_data.supply import add_supply_arguments, supply_of

NAME, FOLDER = "musan", "musan_split"
CATEGORIES = ("music", "noise", "speech")
PIECE_SECONDS = 8
MIN_LAST_SECONDS = 1

_NUM_FILES = 2016  # of the whole corpus, for the time left


def piece_bounds(num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """First and last (exclusive) sample of each piece; the pieces follow each other and cover everything."""
    step = PIECE_SECONDS * sample_rate
    starts = list(range(0, num_samples, step))
    if len(starts) > 1 and num_samples - starts[-1] < MIN_LAST_SECONDS * sample_rate:
        starts.pop()
    return [*itertools.pairwise([*starts, num_samples])]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data musan` takes."""
    add_supply_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Make FOLDER/musan_split complete; returns 1 when some files could not be read."""
    supply = supply_of(options)
    folder = supply.root / FOLDER
    given = [place for category in CATEGORIES for place in find_folders(supply.given, category)]
    given = [place for place in given if place.parent.name == "musan"]
    is_complete = is_prepared(supply.root, NAME, FOLDER)
    if is_complete and not given:
        print(f"{NAME}: all files are in place.")
        return 0
    paths: list[Path] = []
    if not is_complete and (not given or is_at_hand(NAME, supply)):
        (paths,) = obtain(NAME, supply).values()
    size = sum(path.stat().st_size for path in (*paths, *(file for file, _ in _files_below(given))))
    present = sum(path.stat().st_size for path in files_below(folder, (".wav",)))
    # gzip leaves speech and music hardly smaller
    check_room(supply.root, 1.1 * size - present, "Cutting MUSAN")
    damaged = []
    with ProgressLine("cut musan", _NUM_FILES) as progress:
        for name, content in _contents(given, paths):
            place = place_of(name)
            if place is not None:
                try:
                    cut(content, folder / place)
                except (soundfile.SoundFileError, RuntimeError):
                    damaged.append(name)
                progress.add()
    if damaged:
        print(
            f"{NAME}: {len(damaged):,} files can't be read ({', '.join(damaged[:5])}); all others are there."
        )
        return 1
    num_pieces = count_files(folder)
    if not num_pieces:
        label = ", ".join(map(str, paths or given))
        raise ValueError(f"{label} holds no wav file of music, noise or speech: it is not MUSAN.")
    if paths:  # a folder of the user's may hold any part of MUSAN: the rest is still to come
        record_prepared(supply.root, NAME, FOLDER)
    print(f"{NAME}: {num_pieces:,} pieces are in place.")
    delete_sources(paths, supply)
    return 0


def place_of(name: str) -> str | None:
    """Path below musan_split/ of a file of the archive (`musan/noise/free-sound/...wav`)."""
    parts = PurePosixPath(name).parts
    for number, part in enumerate(parts[:-1]):
        if part in CATEGORIES and name.endswith(".wav") and not parts[-1].startswith("."):
            return "/".join(parts[number:])
    return None


def cut(content: bytes | Path, target: Path) -> None:
    """Write the pieces of a file: NAME_00000.wav, NAME_00008.wav ..., named by the second they begin at."""
    with soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
        for start, end in piece_bounds(file.frames, file.samplerate):
            piece = target.with_name(f"{target.stem}_{start // file.samplerate:05d}.wav")
            if piece.exists():
                continue
            file.seek(start)
            samples = file.read(end - start, dtype="int16" if file.subtype == "PCM_16" else "float32")
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, file.samplerate, subtype=file.subtype, format="WAV")
            write_whole(piece, buffer.getvalue())


def _contents(given: Sequence[Path], paths: Sequence[Path]) -> Iterator[tuple[str, bytes | Path]]:
    if paths:
        yield from read_tar(paths, ".wav")
    for file, name in _files_below(given):
        yield name, file


def _files_below(categories: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for category in categories:
        for file in sorted(category.rglob("*.wav")):
            yield file, f"{category.name}/{file.relative_to(category).as_posix()}"
