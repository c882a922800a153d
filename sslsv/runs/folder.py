"""Read and write the folder of a run, `<storage>/<name>/`, on a disk or in object storage.

config.yml        the resolved settings             metrics.jsonl   one JSON object per record
checkpoints/      see checkpoint.py                 summary.json    best and last metrics, written at the end
report.html       curves and tables                 run.json        start, command, versions, wandb id
failure.txt       the traceback of a crash          trained.json    sizes, hours of speech, machine
trained_on.parquet   see evaluation/overlap.py

A place is a path on a disk or a URI of object storage (`s3://bucket/prefix`, `gs://...`). Credentials are
never part of a URI, because places appear in settings, logs and reports; the storage's own tools find them.
"""

import contextlib
import json
import os
import posixpath
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pyarrow import fs

from sslsv.settings import check_location

KINDS = {"sweep.json": "sweep", "loop.yml": "loop", "config.yml": "run"}  # file -> kind of the folder
# Files of a running training: MARK shows that a machine can read the folder, HELD names the placement group.
MARK, HELD = "ray/mark", "ray/held"


def is_uri(place: str) -> bool:
    """Return whether a place is a URI, not a path."""
    return "://" in place


def absolute(place: str | os.PathLike[str]) -> str:
    """Return the place in a form valid in any process: absolute path or URI; `file://` becomes a path."""
    text = os.fspath(place)
    if text.startswith("file://"):
        return str(fs.FileSystem.from_uri(text)[1])
    return text if is_uri(text) else os.path.abspath(text)


def here(place: str) -> str:
    """Return the place in its short form: relative to the working directory if it is below that."""
    return place.removeprefix(f"{os.getcwd()}/")


def below(place: str, name: str) -> str:
    """Return the place of `name` in the folder `place`."""
    return posixpath.join(place, name) if name else place


def open_filesystem(place: str) -> tuple[Any, str]:
    """Return the file system that holds an `absolute` place, and the path in it.

    Raises ValueError for a URI that pyarrow does not support or that contains credentials.
    """
    if not is_uri(place):
        return fs.LocalFileSystem(), place
    check_location("the storage", place)
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except (ValueError, NotImplementedError, OSError) as error:  # pyarrow may lack this kind of storage
        raise ValueError(
            f"{place} can't be opened: {' '.join(str(error).split())}; give a folder, or a URI such as "
            "s3://bucket/folder"
        ) from error
    return filesystem, path.rstrip("/")


def json_text(value: Any) -> str:
    """Return indented JSON; NaN and infinity become null, and values that JSON lacks become text."""
    return json.dumps(finite_values(value), indent=2)


def finite_values(value: Any) -> Any:
    """Return nested values as JSON represents them: NaN and infinity as None, unsupported types as text."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


class RunFolder:
    """Read and write the files of one run; `write` makes a file appear complete or not at all."""

    def __init__(self, storage: str, name: str) -> None:
        place = storage if is_uri(storage) else str(Path(storage).expanduser().resolve())
        self.filesystem, root = open_filesystem(place)
        self.name = name
        self.root = below(root, name)  # path in `filesystem`
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)
        # A plain path or a URI, for users and other programs.
        self.location = self.root if self.is_local else below(storage, name)

    @classmethod
    def at(cls, location: str) -> "RunFolder":
        """Return the run folder that has this `location`."""
        place = location.rstrip("/") or location
        if is_uri(place) and place.count("/") == 2:  # a bucket
            return cls(place, "")
        storage, name = posixpath.split(place)
        return cls(storage or ".", name)

    def path(self, name: str) -> str:
        """Return the full path of a file of the run in `filesystem`."""
        return below(self.root, name)

    def names(self, subfolder: str = "") -> list[str]:
        """Return the sorted names of the files directly below `subfolder`, which need not exist."""
        selector = fs.FileSelector(self.path(subfolder).rstrip("/"), allow_not_found=True)
        entries = self.filesystem.get_file_info(selector)
        return sorted(entry.base_name for entry in entries if entry.type == fs.FileType.File)

    def has(self, name: str) -> bool:
        """Return whether the run has this file (a folder does not count)."""
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    def kind(self) -> str:
        """Return the kind of the folder by its identifying file: sweep, loop or run; empty if it has none."""
        return next((kind for name, kind in KINDS.items() if self.has(name)), "")

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises FileNotFoundError."""
        with self.filesystem.open_input_file(self.path(name)) as file:  # a stream would request 256 KB a time
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name and rename it, so that no reader sees an incomplete file."""
        path = self.path(name)
        if not self.is_local:  # An object appears only when its upload is complete.
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        temporary = f"{path}.{os.getpid()}.part"
        try:
            _write_to_disk(temporary, "wb", content)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def append_lines(self, name: str, lines: list[str]) -> None:
        """Append lines to a text file on a disk; object storage has no append."""
        _write_to_disk(self.path(name), "ab", "".join(line + "\n" for line in lines).encode())

    def delete(self, name: str) -> None:
        """Delete a file; raises FileNotFoundError if the file system reports that it is missing."""
        self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Delete a subfolder and all its content, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path(name).rstrip("/"))

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as a JSON file; see `json_text`."""
        self.write(name, (json_text(value) + "\n").encode())

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return a file's JSON lines, none if it is missing; a last line cut off by a crash is left out."""
        lines = self.read(name).splitlines(keepends=True) if self.has(name) else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def metrics(self) -> list[dict[str, Any]]:
        """Return all records of metrics.jsonl."""
        return self.records("metrics.jsonl")

    def write_records(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write a file of JSON lines."""
        self.write(name, "".join(json.dumps(record) + "\n" for record in records).encode())

    def set_aside(self) -> str:
        """Rename the run folder to `<name>.old-<date>` and return the new name; no file is lost."""
        new_name = f"{self.name}.old-{time.strftime('%Y%m%d-%H%M%S')}"
        new_root = below(posixpath.dirname(self.root), new_name)
        if self.is_local:
            self.filesystem.move(self.root, new_root)
        else:  # Object stores cannot rename, so every object is copied.
            store = self.filesystem
            fs.copy_files(self.root, new_root, source_filesystem=store, destination_filesystem=store)
            store.delete_dir(self.root)
        return new_name


def _write_to_disk(path: str, mode: str, content: bytes) -> None:
    """Write and sync to disk, so that after a power cut renamed files are complete and records not lost."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def only_command_on(folder: RunFolder) -> Iterator[None]:
    """Lock a run folder against other commands; raises ValueError if another command uses it.

    The kernel releases the lock whenever the process ends. Object storage has no locks; there the user must
    take care. The lock file lies next to the folder, because the folder may be renamed, and stays there.
    """
    if not folder.is_local:
        yield
        return
    file = Path(folder.root).parent / f".{folder.name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(file).acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"{folder.location} is in use by {file.read_text() or 'another command'}: wait for it, end it, "
            "or use another name (run.name; for a sweep, --name)"
        ) from error
    with lock:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
