"""Corpora that the user has extracted already: found by their speakers' folders, linked and never copied."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_DEPTH = 4  # DIR/vox2/dev/aac/id00012


def find_folders(given: Sequence[Path], pattern: str) -> Iterator[Path]:
    """Folders whose name matches the whole pattern, at most four below the given ones, sorted."""
    for top in given:
        yield from _below(top, re.compile(pattern), _DEPTH)


def _below(folder: Path, pattern: re.Pattern[str], depth: int) -> Iterator[Path]:
    children = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    for name in children:
        if pattern.fullmatch(name):
            yield folder / name
        elif depth > 1:
            yield from _below(folder / name, pattern, depth - 1)


def has_file(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether some file below a folder has one of the suffixes."""
    return any(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files below a folder with one of the suffixes, sorted within each folder; hidden ones are left out."""
    for place, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)


def is_linked(folder: Path, place: str) -> bool:
    """Whether a path below a folder leads through a linked speaker's folder: the user's own, only read."""
    return (folder / place.partition("/")[0]).is_symlink()


def link_folders(folders: Sequence[Path], into: Path) -> int:
    """Link each folder, under its own name, where there is nothing yet; returns how many links are new."""
    num_new = 0
    for folder in folders:
        link = into / folder.name
        if not link.exists() and not link.is_symlink():
            into.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.resolve(), target_is_directory=True)
            num_new += 1
    return num_new


def link_files(folder: Path, into: Path, suffixes: tuple[str, ...]) -> None:
    """Link each file with one of the suffixes, at the same place below another folder that is no link."""
    for file in files_below(folder, suffixes):
        link = into / file.relative_to(folder)
        if not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
