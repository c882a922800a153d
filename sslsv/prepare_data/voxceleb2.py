"""Download VoxCeleb2's development part (73 GB of AAC), check it and convert it into FOLDER/voxceleb2.

The recordings are read inside the archive, or its parts, and never extracted as AAC: the archive stays until
--delete-sources.  They become 16-bit WAV (some 270 GB) or FLAC (some 160 GB) at 16 kHz, by tasks on all CPUs
of this machine or of the Ray cluster that RAY_ADDRESS names; all of its machines must see FOLDER and the
archive under the same paths.  Speakers' folders (id00012 ...) below --from are used in place of a download:
m4a files are converted, WAV and FLAC linked, and an archive that is at hand fills in the rest.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from sslsv.prepare_data.archives import list_zip
from sslsv.prepare_data.decode import Failure, Item
from sslsv.prepare_data.disk import write_whole
from sslsv.prepare_data.existing import (
    files_below,
    find_folders,
    has_file,
    is_linked,
    link_files,
    link_folders,
)
from sslsv.prepare_data.obtain import delete_sources, is_at_hand, obtain
from sslsv.prepare_data.record import count_files, is_prepared, record_prepared
from sslsv.prepare_data.supply import Supply, add_supply_arguments, supply_of

NAME = "voxceleb2"
NUM_FILES = 1_092_009  # of the development part

_READY = (".wav", ".flac")
_SPEAKER = r"id0\d{4}"
_PLACE = re.compile(rf"(?:^|/)({_SPEAKER}/[^/]+/[^/]+)\.m4a$")


def place_of(name: str) -> str | None:
    """Path below voxceleb2/ of a file of the archive (`dev/aac/id00012/...`), without its suffix."""
    found = _PLACE.search(name)
    return found[1] if found else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data voxceleb2` takes."""
    add_supply_arguments(parser)
    add_conversion_arguments(parser)


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the conversion."""
    parser.add_argument("--format", choices=("wav", "flac"), default="wav", help="(default: %(default)s)")
    parser.add_argument(
        "--cpus",
        type=int,
        metavar="N",
        help="convert on this machine with N processes, whatever RAY_ADDRESS says",
    )


def run(options: argparse.Namespace) -> int:
    """Make FOLDER/voxceleb2 complete; returns 1 when some recordings could not be converted."""
    supply = supply_of(options)
    folder = supply.root / NAME
    speakers = [place for place in find_folders(supply.given, _SPEAKER) if has_file(place, (*_READY, ".m4a"))]
    _link(speakers, folder)
    items = _items_of_folders(speakers, folder, options.format)
    archive: list[Path] = []
    is_complete = is_prepared(supply.root, NAME, NAME)
    if not is_complete and (not speakers or is_at_hand(NAME, supply)):
        (archive,) = obtain(NAME, supply).values()
        inside = _items_of_archive(archive, folder, options.format)
        places = {place for _, place in inside}
        items = inside + [item for item in items if item[1] not in places]
    _name_other_format(folder, options.format)
    if is_complete and not speakers:
        print(f"{NAME}: all files are in place.")
        return 0
    return _convert(supply, archive, items, options.cpus)


def _name_other_format(folder: Path, kind: str) -> None:
    other = "flac" if kind == "wav" else "wav"
    if num_files := count_files(folder, (f".{other}",)):
        print(
            f"{NAME}: {num_files:,} recordings are there as {other} and stay so: --format {kind} makes new "
            "ones."
        )


def _link(speakers: Sequence[Path], folder: Path) -> None:
    """Link what is ready: a speaker's folder, or, where there is something to convert too, its files."""
    compressed = {place for place in speakers if has_file(place, (".m4a",))}
    link_folders([place for place in speakers if place not in compressed], folder)
    for speaker in sorted(compressed):
        if not is_linked(folder, speaker.name):
            link_files(speaker, folder / speaker.name, _READY)


def _items_of_archive(archive: Sequence[Path], folder: Path, kind: str) -> list[Item]:
    entries = list_zip(archive, place_of)
    if not entries:
        raise ValueError(f"{archive[0]} holds no m4a file of a speaker: it is another archive.")
    return [(entry, f"{place}.{kind}") for entry, place in entries if not is_linked(folder, place)]


def _items_of_folders(speakers: Sequence[Path], folder: Path, kind: str) -> list[Item]:
    items: list[Item] = []
    for speaker in speakers:
        for path in files_below(speaker, (".m4a",)) if not is_linked(folder, speaker.name) else ():
            inside = path.relative_to(speaker).with_suffix(f".{kind}").as_posix()
            items.append((str(path.resolve()), f"{speaker.name}/{inside}"))
    return items


def _convert(supply: Supply, archive: Sequence[Path], items: Sequence[Item], num_cpus: int | None) -> int:
    failures: list[Failure] = []
    if items:
        from sslsv.prepare_data.convert import convert  # seconds of Ray

        failures = convert(archive, items, supply.root / NAME, NAME, num_cpus)
    report = supply.root / f"{NAME}_failures.txt"
    if failures:
        write_whole(report, "".join(f"{place}\t{reason}\n" for place, reason in failures).encode())
        print(_failure_sentence(failures, len(items), report))
        return 1
    report.unlink(missing_ok=True)
    if not archive:  # the user's folders may hold any part of the corpus: the rest is still to come
        print(
            f"{NAME}: {count_files(supply.root / NAME):,} recordings are in place, with those of --from (the "
            f"whole corpus has {NUM_FILES:,})."
        )
        return 0
    print(f"{NAME}: {record_prepared(supply.root, NAME, NAME):,} recordings are in place.")
    delete_sources(archive, supply)
    return 0


def _failure_sentence(failures: Sequence[Failure], num_items: int, report: Path) -> str:
    first = "; ".join(f"{place}: {reason}" for place, reason in failures[:3])
    return (
        f"{NAME}: {len(failures):,} of {num_items:,} recordings could not be converted ({first}"
        f"{' ...' if failures[3:] else ''}); all are named in {report}. The others are in place, and the "
        "same command tries these again."
    )
