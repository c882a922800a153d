"""What has arrived of a download: bytes, their md5, and the version of the file that they belong to."""

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sslsv.prepare_data.disk import is_disk_full
from sslsv.prepare_data.progress_line import readable_bytes

_CHUNK = 2**20


class DownloadError(OSError):
    """A file that can't be had; the message says why and how to go on."""


class PartialFile:
    """What has arrived of a file: `NAME.part`, its running md5, and the version that the server named.

    The md5 of an earlier run's bytes is made by reading them again (about a second for 600 MB): a saved state
    could not tell that the disk has lost some. One process at a time: a second one is refused.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._notes = target.with_name(f"{target.name}.part.json")
        self._file: BinaryIO = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DownloadError(
                f"Another process is downloading {target}; wait for it, or end it."
            ) from error
        self.size, self._md5 = 0, hashlib.md5(usedforsecurity=False)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self.size += len(chunk)
            self._md5.update(chunk)
        self.version: str | None = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self.version = json.loads(self._notes.read_text(encoding="utf-8"))["version"]

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    @property
    def md5(self) -> str:
        """Of the bytes that are there."""
        return self._md5.hexdigest()

    def begin(self, version: str | None) -> None:
        """Start from nothing, with the version of the file that now comes."""
        self._file.truncate(0)
        self.size, self._md5 = 0, hashlib.md5(usedforsecurity=False)
        self.version = version
        self._notes.write_text(json.dumps({"version": version}), encoding="utf-8")

    def append(self, chunk: bytes) -> None:
        """Write more bytes; raises DownloadError when the disk is full."""
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            raise DownloadError(_disk_sentence(self.path, self.size, error)) from error
        self.size += len(chunk)
        self._md5.update(chunk)

    def finish(self, target: Path) -> None:
        """Give the complete file its name."""
        os.fsync(self._file.fileno())
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)

    def reject(self) -> Path:
        """Move what has arrived out of the way, as `NAME.bad`."""
        bad = self.path.with_suffix(".bad")
        self.path.replace(bad)
        self._notes.unlink(missing_ok=True)
        return bad


def _disk_sentence(path: Path, size: int, error: OSError) -> str:
    if is_disk_full(error):
        return (
            f"The disk of {path.parent} (or a limit set for it) is full after {readable_bytes(size)} of "
            f"{path.stem}, which are kept: make room, and the same command goes on."
        )
    return f"{path} can't be written ({error.strerror})."
