"""Know what is there already: corpora that are complete, folders that the user has extracted."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

_DEPTH = 4  # folders below a given one: DIR/vox2/dev/aac/id00012
_COMPLETE = ".complete"  # in the folder of a corpus, so that no archive is opened for it


def find_folders(given: Iterable[Path], pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the folders of a matching name, up to four below the given ones, with a file of a suffix."""
    found = []
    for top in given:
        for place, folders, _ in os.walk(top):
            for name in sorted(folders):
                if re.fullmatch(pattern, name) and any(files_below(Path(place, name), suffixes)):
                    found.append(Path(place, name))
            is_deep = len(Path(place).relative_to(top).parts) + 1 >= _DEPTH
            folders[:] = [] if is_deep else [each for each in folders if not re.fullmatch(pattern, each)]
    return found


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder with one of the suffixes, sorted; hidden ones are left out."""
    files = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(file for file in files if file.suffix.lower() in suffixes and file.name[0] != ".")


def link_folders(folders: list[Path], into: Path) -> None:
    """Link each folder, under its own name, where there is nothing yet, and say how many are linked."""
    for folder in folders:
        link = into / folder.name
        if not link.exists() and not link.is_symlink():
            into.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.resolve(), target_is_directory=True)
    if folders:
        print(f"{into}: {len(folders):,} folders are linked from --from, with all that is in them.")


def is_linked(folder: Path, place: str) -> bool:
    """Return whether a path below a folder leads through a link: to the user's files, which are only read."""
    return (folder / place.partition("/")[0]).is_symlink()


def is_complete(folder: Path) -> bool:
    """Return whether a corpus was complete once, or is a link to the user's own files, and say so."""
    if not folder.is_symlink() and not (folder / _COMPLETE).exists():
        return False
    print(f"{folder.name}: all files are in place.")
    return True


def set_complete(folder: Path, *, is_whole: bool = True) -> int:
    """Note that a corpus is complete, unless it is only the part that the user has; returns 0."""
    if is_whole:
        (folder / _COMPLETE).touch()
        print(f"{folder.name}: all files are in place; its archives are needed no more.")
    else:
        print(f"{folder.name}: the recordings of --from are in place; without --from the rest is downloaded.")
    return 0
