"""Download VoxCeleb1 (30 GB, WAV at 16 kHz), check it and extract it into FOLDER/voxceleb1.

Extracted speakers' folders (id10001 ...) below --from are linked, not copied; then nothing is downloaded, and
archives that are at hand fill in the other speakers.
"""

import argparse
import re

from sslsv.prepare_data.archives import list_zip
from sslsv.prepare_data.existing import find_folders, has_file, is_linked, link_folders
from sslsv.prepare_data.extract import extract
from sslsv.prepare_data.obtain import delete_sources, is_at_hand, obtain
from sslsv.prepare_data.record import count_files, is_prepared, record_prepared
from sslsv.prepare_data.supply import Supply, add_supply_arguments, supply_of

NAME = "voxceleb1"
NUM_FILES, NUM_SPEAKERS = 153_516, 1251  # development and test together

_SPEAKER = r"id1\d{4}"
_PLACE = re.compile(rf"(?:^|/)({_SPEAKER}/[^/]+/[^/]+\.wav)$")


def place_of(name: str) -> str | None:
    """Path below voxceleb1/ of a file of the archives (`wav/id10001/...`), None for what is no recording."""
    found = _PLACE.search(name)
    return found[1] if found else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data voxceleb1` takes."""
    add_supply_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Make FOLDER/voxceleb1 complete; returns 1 when some files could not be extracted."""
    supply = supply_of(options)
    if is_prepared(supply.root, NAME, NAME):
        print(f"{NAME}: all files are in place.")
        return 0
    folder = supply.root / NAME
    speakers = [place for place in find_folders(supply.given, _SPEAKER) if has_file(place, (".wav", ".flac"))]
    if speakers:
        link_folders(speakers, folder)
        print(
            f"{NAME}: {len(speakers):,} speakers are linked from --from, with {count_files(folder):,} "
            f"recordings (the whole corpus has {NUM_SPEAKERS:,} and {NUM_FILES:,})."
        )
        if not is_at_hand(NAME, supply):
            return 0
    return _extract_archives(supply)


def _extract_archives(supply: Supply) -> int:
    archives, folder = obtain(NAME, supply), supply.root / NAME
    is_complete = True
    for name, paths in archives.items():
        entries = [entry for entry in list_zip(paths, place_of) if not is_linked(folder, entry[1])]
        result = extract(paths, entries, folder, name)
        print(f"{name}: {result.describe()}")
        is_complete &= result.is_complete
    if not is_complete:
        return 1
    print(f"{NAME}: {record_prepared(supply.root, NAME, NAME):,} recordings are in place.")
    for paths in archives.values():
        delete_sources(paths, supply)
    return 0
