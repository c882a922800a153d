"""Writing to the disk: enough room beforehand, whole files only, and nothing lost when a file is replaced."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sslsv.prepare_data.progress_line import readable_bytes

_MARGIN_BYTES = 64 * 2**20  # for the file system itself


def check_room(folder: Path, needed_bytes: float, purpose: str) -> None:
    """Raise OSError when a folder's disk has not enough room for what is to come."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + _MARGIN_BYTES > free:
        raise OSError(
            f"{purpose} needs {readable_bytes(needed_bytes)}, but the disk of {folder} has "
            f"{readable_bytes(free)} free: make room, or give a folder on another disk."
        )


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room: on the disk, in a quota, or by a limit to a file's size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Raise a sentence in place of the system's error when the disk of a folder gets full."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise OSError(_full(f"The disk of {folder}")) from error


def sentence_of(error: Exception) -> str:
    """What to tell the user of an error, also of a full disk that nothing nearer has named."""
    if isinstance(error, OSError) and is_disk_full(error):
        return _full(f"The disk of {os.fsdecode(error.filename)}" if error.filename else "A disk")
    return str(error)


def _full(disk: str) -> str:
    return f"{disk} (or a limit set for it) is full: make room, and the same command goes on."


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: its name means that it is complete.

    Raises OSError when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id: two processes that make the same file by mistake must not share it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path.parent):
            temporary.write_bytes(content)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_list(path: Path, text: str) -> str:
    """Write a list and return what happened; other content is kept as NAME.old, NAME.old2 ..."""
    state = "is written"
    if path.exists():
        if path.read_text(encoding="utf-8", errors="replace") == text:
            return f"{path} is as it was"
        number, kept = 1, path.with_name(f"{path.name}.old")
        while kept.exists():
            number += 1
            kept = path.with_name(f"{path.name}.old{number}")
        shutil.copy2(path, kept)
        state = f"is written anew, what it was is kept as {kept.name}"
    write_whole(path, text.encode())
    return f"{path} {state}"


def write_lists(lists: Mapping[Path, Iterable[str]], *, is_forced: bool) -> None:
    """Write lists, given as lines without their ends, each whole or not at all.

    Unless `is_forced`, a list that is there with other content raises FileExistsError, and none is written.
    """
    contents = {
        place: "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        for place, lines in lists.items()
    }
    for place, content in contents.items():
        if not is_forced and place.exists() and place.read_bytes() != content:
            raise FileExistsError(
                f"{place} exists and would change: choose another name, or let --force replace it."
            )
    for place, content in contents.items():
        write_whole(place, content)
