"""Writing to the disk: enough room beforehand, whole files only, nothing lost when a list is replaced."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

_MARGIN_BYTES = 64 * 2**20  # for the file system itself


def progress(title: str, total: int | None, unit: str = "files", done: int = 0) -> Any:
    """Return a progress bar on stderr; in a log it is a line every 30 s. `done` counts, but not as speed."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    scales = {"unit": unit, "unit_scale": unit == "B", "mininterval": interval}
    return tqdm(desc=title, total=total, initial=done, **scales)


def readable_bytes(count: float) -> str:
    """Return a number of bytes with three digits and its unit."""
    return str(tqdm.format_sizeof(count, "B"))


def check_room(folder: Path, needed_bytes: float, purpose: str) -> None:
    """Raise OSError when the disk of a folder has not enough room for what is to come."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + _MARGIN_BYTES > free:
        raise OSError(
            f"{purpose} needs {readable_bytes(needed_bytes)}, but the disk of {folder} has "
            f"{readable_bytes(free)} free: make room, or give a folder on another disk."
        )


def sentence_of(error: Exception, folder: Path | None = None) -> str:
    """Return what to tell the user of an error; a full disk is named by `folder`, or the error's file."""
    # No room on the disk or in a quota, or a limit to the size of a file.
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return str(error)
    place = folder or (os.fsdecode(error.filename) if error.filename else None)
    disk = f"The disk of {place}" if place else "A disk"
    return f"{disk} (or a limit set for it) is full: make room, and the same command goes on."


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Replace the system's error by a sentence when the disk of a folder gets full."""
    try:
        yield
    except OSError as error:
        sentence = sentence_of(error, folder)
        raise error if sentence == str(error) else OSError(sentence) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: its name means that it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make the same file by mistake must not share the temporary one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path.parent):
            temporary.write_bytes(content)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_list(path: Path, lines: Iterable[str]) -> str:
    """Write a list and return what happened; other content is kept as NAME.old, NAME.old2 ..."""
    # Names of files need not be valid UTF-8.
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    state = "is written"
    if path.exists():
        if path.read_bytes() == content:
            return f"{path} is as it was"
        names = (f"{path.name}.old{number or ''}" for number in (0, *range(2, 10**6)))
        kept = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        shutil.copy2(path, kept)
        state = f"is written anew, what it was is kept as {kept.name}"
    write_whole(path, content)
    return f"{path} {state}"
