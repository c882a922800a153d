"""Download the simulated room impulse responses (OpenSLR 28, 1.3 GB), check and extract them.

They go into FOLDER/simulated_rirs.  A folder of that name below --from is linked, not copied; then nothing is
downloaded.
"""

import argparse

from sslsv.prepare_data.archives import list_zip
from sslsv.prepare_data.existing import find_folders, link_folders
from sslsv.prepare_data.extract import extract
from sslsv.prepare_data.obtain import delete_sources, obtain
from sslsv.prepare_data.record import count_files, is_prepared, record_prepared
from sslsv.prepare_data.supply import add_supply_arguments, supply_of

NAME, FOLDER = "rirs", "simulated_rirs"


def place_of(name: str) -> str | None:
    """Path below simulated_rirs/ of a file of the archive; its real rooms and point noises are left out."""
    _, separator, place = name.partition(f"{FOLDER}/")
    return place if separator and place.endswith(".wav") else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data rirs` takes."""
    add_supply_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Make FOLDER/simulated_rirs complete; returns 1 when some files could not be extracted."""
    supply = supply_of(options)
    folder = supply.root / FOLDER
    if folder.is_symlink():  # what it leads to is the user's own: nothing is extracted into it
        print(f"{NAME}: {folder} is a link to {folder.readlink()}, with {count_files(folder):,} responses.")
        return 0
    if is_prepared(supply.root, NAME, FOLDER):
        print(f"{NAME}: all files are in place.")
        return 0
    given = list(find_folders(supply.given, FOLDER))[:1]
    if given and not folder.exists():
        link_folders(given, supply.root)
        print(f"{NAME}: {given[0]} is linked, with {count_files(folder):,} responses.")
        return 0
    (paths,) = obtain(NAME, supply).values()
    result = extract(paths, list_zip(paths, place_of), folder, NAME)
    print(f"{NAME}: {result.describe()}")
    if not result.is_complete:
        return 1
    record_prepared(supply.root, NAME, FOLDER)
    delete_sources(paths, supply)
    return 0
