"""Read archives in place, from one file or from parts that are never joined on the disk.

The content is not trusted: names that lead out of the folder, links and encrypted files are refused.
"""

import contextlib
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from sslsv.prepare_data.disk import check_space, progress, write_whole

# `zipfile` raises NotImplementedError for a version or compression that it does not know.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error)


class _JoinedParts(io.RawIOBase):
    """Read several files as one seekable file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._starts[-1])[whence]
        if self._position < 0:
            raise OSError(f"A position in a file is 0 or more: got {self._position}.")
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        num_bytes = min(len(buffer), self._starts[index + 1] - self._position)
        data = os.pread(self._files[index].fileno(), num_bytes, self._position - self._starts[index])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def open_parts(paths: Sequence[Path]) -> io.BufferedReader:
    """Return a buffered reader of the joined parts."""
    return io.BufferedReader(_JoinedParts(paths), buffer_size=2**18)


@contextlib.contextmanager
def open_zip(
    paths: Sequence[Path], path_of: Callable[[str], str | None]
) -> Iterator[tuple[zipfile.ZipFile, list[tuple[zipfile.ZipInfo, str]]]]:
    """Open a zip; list (file, path) for the files to which `path_of` gives a path, in the archive's order.

    Raises ValueError for a zip that is damaged or incomplete, holds a refused file, or no file with a path.
    """
    label = _label(paths)
    with open_parts(paths) as file:
        try:
            archive = zipfile.ZipFile(file)
            infos = archive.infolist()
            # zipfile tolerates missing or extra bytes before the file list, but every offset is then wrong.
            if infos and min(info.header_offset for info in infos) != 0:
                raise zipfile.BadZipFile("the first file is not at its beginning")
        except DAMAGED as error:
            raise ValueError(
                f"{label} is not a complete zip ({error}): a part is missing, cut off or in the wrong order; "
                "compare the sizes with those at its source."
            ) from error
        entries = []
        for info in infos:
            is_encrypted = info.flag_bits % 2 == 1
            _check_member(label, info.filename, stat.S_ISLNK(info.external_attr >> 16) or is_encrypted)
            if not info.is_dir() and (path := path_of(info.filename)):
                entries.append((info, path))
        if not entries:
            raise ValueError(f"{label} holds none of the expected files: it is the wrong archive.")
        yield archive, entries


def extract(paths: Sequence[Path], path_of: Callable[[str], str | None], folder: Path, title: str) -> bool:
    """Write the files of a zip that do not exist below a folder yet; return whether all exist now.

    Raises OSError if the space is too small for all of them, and ValueError like `open_zip`.
    """
    damaged = []
    with open_zip(paths, path_of) as (archive, entries):
        missing = [(info, path) for info, path in entries if not (folder / path).exists()]
        check_space(folder, sum(info.file_size for info, _ in missing), f"Extracting {title}")
        with progress(f"extract {title}", len(missing)) as bar:
            for info, path in missing:
                try:
                    write_whole(folder / path, archive.read(info))
                except DAMAGED:
                    damaged.append(path)
                bar.update()
    names = f"; damaged in the archive: {', '.join(damaged[:3])} ..." if damaged else ""
    print(f"{title}: {len(entries) - len(damaged):,} of {len(entries):,} files are there{names}")
    return not damaged


def read_tar(paths: Sequence[Path], suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each file of a tar.gz with this suffix, in one pass; raises ValueError."""
    label = _label(paths)
    try:
        with open_parts(paths) as file, tarfile.open(fileobj=file, mode="r|gz") as archive:
            for member in archive:
                _check_member(label, member.name, not member.isfile() and not member.isdir())
                content = archive.extractfile(member) if member.name.endswith(suffix) else None
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{label} is damaged or cut off ({error}): compare its size.") from error


def _check_member(label: str, name: str, is_special: bool) -> None:
    if is_special or name.startswith("/") or ".." in name.split("/"):
        fault = "it is a link, a device or encrypted" if is_special else "it leads out of the folder"
        raise ValueError(f"{label} holds {name!r}, which is refused: {fault}. It is the wrong archive.")


def _label(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} more parts" if paths[1:] else ""
    return f"{paths[0]}{more} ({sum(path.stat().st_size for path in paths):,} bytes)"
