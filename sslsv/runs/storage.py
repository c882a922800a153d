"""Places of files: paths of a disk, and URIs of object storage (`s3://bucket/prefix`, `gs://...`).

Credentials are never part of a URI here: places stand in settings, logs and reports.  They come from where
the tools of the storage look for them: the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`),
`~/.aws`, the role of the machine, the default credentials of Google.
"""

import os
import posixpath
from typing import Any

from pyarrow import fs

from sslsv.settings import check_place


def is_uri(place: str) -> bool:
    """Whether a place is a URI and no path of this machine."""
    return "://" in place


def absolute(place: str | os.PathLike[str]) -> str:
    """The place as any process finds it: an absolute path, or the URI; `file://` becomes a path."""
    text = os.fspath(place)
    if text.startswith("file://"):
        return str(fs.FileSystem.from_uri(text)[1])
    return text if is_uri(text) else os.path.abspath(text)


def below(location: str, name: str) -> str:
    """Location of `name` in a folder; the options of a URI (`?endpoint_override=...`) stay at its end."""
    path, mark, options = location.partition("?") if is_uri(location) else (location, "", "")
    return posixpath.join(path, name) + mark + options


def open_filesystem(place: str) -> tuple[Any, str]:
    """The file system that holds an `absolute` place, and the place's path in it.

    Raises ValueError for a URI that names no storage that pyarrow knows, or holds credentials.
    """
    if not is_uri(place):
        return fs.LocalFileSystem(), place
    check_place("the storage", place)
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except (ValueError, NotImplementedError, OSError) as error:  # pyarrow built without that storage, too
        raise ValueError(
            f"{place} can't be opened: {' '.join(str(error).split())}; give a folder, or a URI such as "
            "s3://bucket/folder"
        ) from error
    return filesystem, path.rstrip("/")
