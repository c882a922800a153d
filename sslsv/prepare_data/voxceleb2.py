"""Download VoxCeleb2's development part (73 GB of AAC), check it and convert it into FOLDER/voxceleb2.

The recordings are read inside the archive, or its parts, and never extracted as AAC: the archive stays until
--delete-sources.  They become 16-bit WAV (some 270 GB) or FLAC (some 160 GB) at 16 kHz, by tasks on all CPUs
of this machine or of the Ray cluster that RAY_ADDRESS names; all of its machines must see FOLDER and the
archive under the same paths.  Speakers' folders (id00012 ...) below --from are used in place of a download:
with m4a files they are converted, with WAV or FLAC linked.
"""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from sslsv.prepare_data.archives import list_zip
from sslsv.prepare_data.decode import Failure, Item
from sslsv.prepare_data.disk import write_whole
from sslsv.prepare_data.existing import find_folders, has_file, is_linked, link_folders
from sslsv.prepare_data.obtain import delete_sources, is_at_hand, obtain
from sslsv.prepare_data.record import is_prepared, record_prepared
from sslsv.prepare_data.supply import Supply, add_supply_arguments, supply_of

NAME = "voxceleb2"

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
    if is_prepared(supply.root, NAME, NAME):
        print(f"{NAME}: all files are in place.")
        return 0
    folder = supply.root / NAME
    speakers = list(find_folders(supply.given, _SPEAKER))
    compressed = [place for place in speakers if has_file(place, (".m4a",))]
    ready = [
        place for place in speakers if place not in set(compressed) and has_file(place, (".wav", ".flac"))
    ]
    if ready:
        link_folders(ready, folder)
        print(f"{NAME}: {len(ready):,} speakers are linked from --from.")
    if compressed:
        return _convert(supply, [], _items_of_folders(compressed, options.format), options.cpus)
    if ready and not is_at_hand(NAME, supply):
        return 0
    (paths,) = obtain(NAME, supply).values()
    entries = list_zip(paths, place_of)
    if not entries:
        raise ValueError(f"{paths[0]} holds no m4a file of a speaker: it is another archive.")
    items: list[Item] = [
        (entry, f"{place}.{options.format}") for entry, place in entries if not is_linked(folder, place)
    ]
    return _convert(supply, paths, items, options.cpus)


def _items_of_folders(speakers: Sequence[Path], kind: str) -> list[Item]:
    items: list[Item] = []
    for speaker in speakers:
        for place, _, names in sorted(os.walk(speaker)):
            for name in sorted(names):
                path = Path(place, name)
                if path.suffix.lower() == ".m4a" and not name.startswith("."):
                    inside = path.relative_to(speaker).with_suffix(f".{kind}").as_posix()
                    items.append((str(path.resolve()), f"{speaker.name}/{inside}"))
    return items


def _convert(supply: Supply, archive: Sequence[Path], items: Sequence[Item], num_cpus: int | None) -> int:
    from sslsv.prepare_data.convert import convert  # seconds of Ray

    failures = convert(archive, items, supply.root / NAME, NAME, num_cpus)
    report = supply.root / f"{NAME}_failures.txt"
    if failures:
        write_whole(report, "".join(f"{place}\t{reason}\n" for place, reason in failures).encode())
        print(_failure_sentence(failures, len(items), report))
        return 1
    report.unlink(missing_ok=True)
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
