"""Who speaks in a recording, told from its path below a folder."""

import os
import re
from collections.abc import Callable

SpeakerOf = Callable[[str], str]  # path below the folder -> speaker


def speaker_rule(kind: str, regex: str | None) -> SpeakerOf | None:
    """Return what tells the speaker from a path, None if nothing does; ValueError for a wrong --regex."""
    if (kind == "regex") != (regex is not None):
        raise ValueError("--speaker-from regex and --regex PATTERN go together: give both or neither.")
    if kind == "none":
        return None
    if kind == "top":
        return lambda path: _folders_of(path, kind)[0]
    if kind == "parent":
        return _unambiguous_parent()
    try:
        pattern = re.compile(regex or "")
    except re.error as error:
        raise ValueError(f"--regex {regex!r} is no regular expression: {error}.") from error
    if pattern.groups < 1:
        raise ValueError(
            f"--regex {regex!r} has no group: put brackets around the speaker, as in '(id\\d+)'."
        )

    def search(path: str) -> str:
        match = pattern.search(path)
        if match is None or not match.group(1):
            raise ValueError(f"--regex {regex!r} finds no speaker in {path}: change the pattern.")
        return match.group(1)

    return search


def _unambiguous_parent() -> SpeakerOf:
    places: dict[str, str] = {}

    def parent(path: str) -> str:
        place, name = os.path.dirname(path), _folders_of(path, "parent")[-1]
        if places.setdefault(name, place) != place:
            raise ValueError(
                f"--speaker-from parent can't tell if {places[name]} and {place} are one speaker: use top "
                "if speakers are the first folders, else regex; --regex '([^/]+)/[^/]+$' makes them one."
            )
        return name

    return parent


def _folders_of(path: str, kind: str) -> list[str]:
    folders = path.split(os.sep)[:-1]
    if not folders:
        raise ValueError(
            f"{path} lies directly in the folder, so --speaker-from {kind} finds no speaker for it: choose "
            "regex or none, or give each speaker a folder."
        )
    return folders
