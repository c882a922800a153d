"""Recognise audio files by name, find them below a folder, and check which paths a list can hold."""

import os
import re
from collections.abc import Iterable
from itertools import filterfalse

SEEKABLE_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".caf", ".voc"),
)
# Files with these suffixes are decoded in full for every crop.
COMPRESSED_SUFFIXES = (
    *(".m4a", ".m4b", ".aac", ".mp4", ".mov", ".3gp", ".wma", ".webm", ".mka", ".mkv", ".amr"),
)
AUDIO_SUFFIXES = (*SEEKABLE_SUFFIXES, *COMPRESSED_SUFFIXES)

_ENDINGS = "|".join(map(re.escape, AUDIO_SUFFIXES))
_UNLISTABLE = {
    r"\A\Z": "is missing",
    r"[\n\r]": "has a line break in its name",
    r"\t": "has a tab in its name",
    r"[\ud800-\udfff]": "is not UTF-8",
    r"\A\s|\s\Z": "begins or ends with a blank",
    r"(?:\A|/)\.\.(?:/|\Z)": "has a '..' in it",  # hides where the path leads, unlike an absolute path
    # If a blank follows the suffix of an audio file, the line holds more than one path.
    rf"(?i:{_ENDINGS})\s": "has a blank after the suffix of an audio file",
}
_ANY_UNLISTABLE = re.compile("|".join(_UNLISTABLE))


def is_audio(name: str) -> bool:
    """Return whether a name ends in the suffix of an audio file."""
    return name.lower().endswith(AUDIO_SUFFIXES)


def find_audio_files(folder: str | os.PathLike[str]) -> tuple[list[str], str]:
    """Return the sorted paths of all recordings below a folder, and a line that names other files, or "".

    Hidden files and folders are left out. Links are followed, but no folder is entered twice. Raises
    OSError for a folder that is missing or can't be read, ValueError for a name that is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds the recordings.")
    files: list[str] = []
    entered: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (target := os.path.realpath(parent)) in entered:
            folders.clear()
            continue
        entered.add(target)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    recordings, others = sorted(filter(is_audio, files)), sorted(filterfalse(is_audio, files))
    check_names(recordings)
    examples = ", ".join(printable(os.path.relpath(path, folder)) for path in others[:3])
    examples += ", ..." if others[3:] else ""
    note = f"{len(others)} files are left out: they lack the suffix of an audio file ({examples})\n"
    return recordings, note if others else ""


def check_names(paths: Iterable[str]) -> None:
    """Raise ValueError for the first path that is not UTF-8."""
    if bad := next((path for path in paths if re.search("[\ud800-\udfff]", path)), None):
        raise ValueError(
            f"{os.fsencode(bad)!r} has a name that is not UTF-8, which lists, tables and reports can't hold: "
            "rename it (`convmv -f LATIN1 -t UTF-8 -r --notest FOLDER` renames all files of a folder)."
        )


def printable(name: str) -> str:
    """Return a file name, which may be invalid UTF-8, as printable text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unlistable_reason(path: str) -> str | None:
    """Return why a path can't stand in a list, or None if it can."""
    if not _ANY_UNLISTABLE.search(path):
        return None
    return next(reason for pattern, reason in _UNLISTABLE.items() if re.search(pattern, path))
