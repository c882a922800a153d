"""Download MUSAN (11 GB) and the simulated room impulse responses (OpenSLR 28, 1.3 GB), and unpack them.

MUSAN is cut into pieces of 8 s below FOLDER/musan_split, and no sample is lost: a file shorter than 8 s is
one piece, and so is what remains at a file's end; only a rest below 1 s stays with the piece before it.  The
impulse responses go into FOLDER/simulated_rirs; a folder of that name below --from is linked.
"""

import argparse
import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import soundfile

from sslsv.prepare_data.archives import extract, list_zip, read_tar
from sslsv.prepare_data.disk import check_room, progress, write_whole
from sslsv.prepare_data.download import add_supply_arguments, is_at_hand, obtain, supply_of
from sslsv.prepare_data.extracted import files_below, find_folders, is_complete, link_folders, set_complete

CATEGORIES = ("music", "noise", "speech")
PIECE_SECONDS = 8
MIN_LAST_SECONDS = 1

_NUM_FILES = 2016  # the whole of MUSAN, for the time left


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add what the commands `musan` and `rirs` take."""
    add_supply_arguments(parser)


def run(options: argparse.Namespace, command: str) -> int:
    """Run one command; returns 1 when some files could not be read or extracted."""
    return _musan(options) if command == "musan" else _rirs(options)


def _musan(options: argparse.Namespace) -> int:
    supply = supply_of(options)
    folder = supply.root / "musan_split"
    given = find_folders(supply.given, "musan", (".wav",))
    if not given and is_complete(folder):
        return 0
    archive: list[Path] = []
    if not given or is_at_hand("musan", supply):
        (archive,) = obtain("musan", supply).values()
    files = [file for corpus in given for file in files_below(corpus, (".wav",))]
    size = sum(path.stat().st_size for path in (*archive, *files))
    present = sum(path.stat().st_size for path in files_below(folder, (".wav",)))
    # gzip leaves speech and music hardly smaller.
    check_room(supply.root, 1.1 * size - present, "Cutting MUSAN")
    num_read, damaged = 0, []
    with progress("cut musan", _NUM_FILES) as bar:
        inside: Iterable[tuple[str, bytes | Path]] = read_tar(archive, ".wav") if archive else ()
        for name, content in itertools.chain(inside, ((str(file), file) for file in files)):
            place = place_of(name)
            if place is None:
                continue
            try:
                cut(content, folder / place)
            except (soundfile.SoundFileError, RuntimeError):
                damaged.append(name)
            num_read += 1
            bar.update()
    if not num_read:
        label = ", ".join(map(str, archive or given))
        raise ValueError(f"{label} holds no wav file of music, noise or speech: it is not MUSAN.")
    if damaged:
        print(f"musan: {len(damaged):,} files can't be read ({', '.join(damaged[:5])}), all others can.")
        return 1
    return set_complete(folder, is_whole=bool(archive))


def place_of(name: str) -> str | None:
    """Return the path below musan_split/ of a file of MUSAN (`.../musan/noise/fs/x.wav`), or None."""
    _, _, place = f"/{name}".rpartition("/musan/")
    is_wav = place.endswith(".wav") and not place.rpartition("/")[2].startswith(".")
    return place if is_wav and place.partition("/")[0] in CATEGORIES else None


def piece_bounds(num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """Return first and last (exclusive) sample of each piece; they follow each other and cover everything."""
    starts = list(range(0, num_samples, PIECE_SECONDS * sample_rate))
    if len(starts) > 1 and num_samples - starts[-1] < MIN_LAST_SECONDS * sample_rate:
        starts.pop()
    return [*itertools.pairwise([*starts, num_samples])]


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


def _rirs(options: argparse.Namespace) -> int:
    supply = supply_of(options)
    folder = supply.root / "simulated_rirs"
    if not folder.exists():
        link_folders(find_folders(supply.given, folder.name, (".wav",))[:1], supply.root)
    if is_complete(folder):
        return 0
    (archive,) = obtain("rirs", supply).values()
    return set_complete(folder) if extract(archive, list_zip(archive, _rir_place_of), folder, "rirs") else 1


def _rir_place_of(name: str) -> str | None:
    # The archive's real rooms and point noises are left out.
    _, separator, place = name.partition("simulated_rirs/")
    return place if separator and place.endswith(".wav") else None
