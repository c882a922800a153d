"""List files: `speaker path` lines to train on, `1|0 enrolment test` lines to compare.

Fields are separated by blanks.  The path of a train list is the rest of its line and may hold blanks; the two
paths of a trial only where tabs separate the three fields, else nothing would say where the first one ends.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator

from sslsv.data.audio_files import AUDIO_SUFFIXES
from sslsv.runs.storage import absolute, below, is_uri, open_filesystem

_AT_ONCE = 2**20  # bytes read at a time: a request to object storage
_TRAIN_FORM = "speaker path"
_TRIAL_FORM = "1|0 enrolment test"
# An audio file's name that ends before the line does: two paths, or a path and something else.
_NAME_THEN_MORE = re.compile(rf"(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})\s", re.IGNORECASE)


def train_rows(root: str | os.PathLike[str], name: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, speaker, path) of a train list below `root`, or given by an absolute path.

    Raises ValueError for a line that is no `speaker path` and for an empty list, FileNotFoundError.
    """
    is_empty = True
    for number, line in list_lines(root, name):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        is_empty = False
        path = fields[1].rstrip() if len(fields) == 2 else ""
        # The two tests before the search spare a million lines half a second.
        if not path or (" " in path or "\t" in path) and _NAME_THEN_MORE.search(path):
            raise _malformed(name, number, line, _TRAIN_FORM, "2 fields")
        check_stays_below(name, number, path)
        yield number, fields[0], path
    if is_empty:
        raise _empty(root, name, _TRAIN_FORM)


def trial_rows(root: str | os.PathLike[str], name: str) -> Iterator[tuple[int, bool, str, str]]:
    """Yield (line number, is target, enrolment path, test path) of a trial list; see `train_rows`."""
    is_empty = True
    for number, line in list_lines(root, name):
        fields = line.rstrip("\r\n").split("\t") if line.count("\t") == 2 else line.split()
        if not line.strip():
            continue
        is_empty = False
        if len(fields) != 3:
            raise _malformed(name, number, line, _TRIAL_FORM, "3 fields without blanks in them")
        label, enrolment, test = fields
        if label not in ("0", "1"):
            raise ValueError(
                f"{name}, line {number}: the label is {label!r}; it must be 1 (same speaker) or 0."
            )
        check_stays_below(name, number, enrolment)
        check_stays_below(name, number, test)
        yield number, label == "1", enrolment, test
    if is_empty:
        raise _empty(root, name, _TRIAL_FORM)


def trial_line_numbers(root: str | os.PathLike[str], name: str, trials: Iterable[int]) -> dict[int, int]:
    """Return the line number of each of some trials, by reading the list again: hardly ever needed."""
    wanted = set(trials)
    last = max(wanted, default=-1)
    found = {}
    for trial, (number, *_) in enumerate(trial_rows(root, name)):
        if trial in wanted:
            found[trial] = number
        if trial >= last:
            break
    return found


def is_trial_list(root: str | os.PathLike[str], name: str) -> bool:
    """Tell trials from a train list by the first line that is not blank; raises as the readers do."""
    for _, line in list_lines(root, name):
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        if line.strip():
            return len(fields) == 3 and fields[0] in ("0", "1") and bool(_NAME_THEN_MORE.search(line.strip()))
    raise _empty(root, name, f"{_TRAIN_FORM}` or `{_TRIAL_FORM}")


def check_stays_below(name: str, number: int, path: str) -> None:
    """Raise ValueError for a path with `..`, which hides where it leads; an absolute one shows it."""
    if ".." in path and ".." in path.split("/"):
        raise ValueError(
            f"{name}, line {number}: the path {path[:120]!r} has a '..' in it, which may lead "
            "out of data.root: write it without, or as an absolute path."
        )


def why_unlistable(path: str) -> str | None:
    """Return why no line of a train list can hold a path, or None where one can."""
    if "\n" in path or "\r" in path:
        return "has a line break in its name"
    if path != path.strip():
        return "begins or ends with a blank"
    if ".." in path.split("/"):
        return "has a '..' in it"
    if _NAME_THEN_MORE.search(path):
        return "has a blank after what ends as an audio file's name does"
    return None


def find_lists(root: str | os.PathLike[str]) -> list[str]:
    """Return the names of the lists directly in a folder: `*train_list`, `*trials*`, `*_test_*`, sorted."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_file())
    return [name for name in names if re.search(r"train_list$|trials|_test_", name) and "." not in name]


def list_lines(root: str | os.PathLike[str], name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a list, from 1; raises FileNotFoundError."""
    place = list_location(root, name)
    filesystem, path = open_filesystem(place)
    try:
        file = filesystem.open_input_stream(path, compression=None, buffer_size=_AT_ONCE)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"The list {place} does not exist. Lists are looked up below data.root ({root})."
        ) from error
    # Names of files need not be valid UTF-8: such bytes come through as they are.
    with io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape") as lines:
        yield from enumerate(lines, start=1)


def list_location(root: str | os.PathLike[str], name: str) -> str:
    """Return where a list lies: below `root`, unless its name is an absolute path or a URI."""
    return absolute(name if is_uri(name) else below(absolute(root), name))


def _malformed(name: str, number: int, line: str, form: str, expected: str) -> ValueError:
    return ValueError(
        f"{name}, line {number}: expected `{form}`, {expected} separated by blanks, "
        f"got {len(line.split())} fields: {line.strip()[:120]!r}."
    )


def _empty(root: str | os.PathLike[str], name: str, form: str) -> ValueError:
    return ValueError(f"The list {list_location(root, name)} is empty: it needs lines of the form `{form}`.")
