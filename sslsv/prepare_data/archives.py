"""Archives read where they lie, in one piece or in parts that are never joined on the disk.

An archive's names and sizes come from elsewhere: names that lead out of the folder, links, and sizes beyond
belief are refused.
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
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import BinaryIO

# Speech packs to about half; what grows by more than this is no speech but a bomb.
_MAX_GROWTH = 30
_ALWAYS_ALLOWED_BYTES = 64 * 2**20
_STORED, _DEFLATED = 0, 8


class ArchiveError(ValueError):
    """An archive that is damaged, incomplete, or not to be trusted."""


class JoinedParts(io.RawIOBase):
    """Several files as one, for reading and seeking."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files: list[BinaryIO] = []
        try:
            for path in paths:
                self.files.append(path.open("rb"))
        except OSError:
            self.close()
            raise
        sizes = [os.fstat(file.fileno()).st_size for file in self.files]
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    @property
    def size(self) -> int:
        """Bytes of all parts together."""
        return self._starts[-1]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted from the start, the current one or the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"A place in a file is 0 or more: got {base + offset}.")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the part that the position is in."""
        if self._position >= self.size:
            return 0
        number = bisect_right(self._starts, self._position) - 1
        wanted = min(len(buffer), self._starts[number + 1] - self._position)
        data = os.pread(self.files[number].fileno(), wanted, self._position - self._starts[number])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close all parts."""
        for file in self.files:
            file.close()
        super().close()


def open_parts(paths: Sequence[Path]) -> io.BufferedReader:
    """A buffered view of the parts, joined."""
    return io.BufferedReader(JoinedParts(paths), buffer_size=2**18)


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """Where a file lies in a zip, so that any process reads it without the zip's list of a million others."""

    offset: int  # of its local header
    compressed_size: int
    size: int
    crc: int
    method: int


def read_entry(archive: BinaryIO, entry: ZipEntry) -> bytes:
    """The content of one file of a zip; raises ArchiveError when it is damaged."""
    archive.seek(entry.offset)
    header = archive.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04" or entry.method not in (_STORED, _DEFLATED):
        raise ArchiveError("damaged in the archive: no file begins where its list says so")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    archive.seek(name_length + extra_length, os.SEEK_CUR)
    data = archive.read(entry.compressed_size)
    if entry.method == _DEFLATED:
        with contextlib.suppress(zlib.error):
            data = zlib.decompressobj(-15).decompress(data, entry.size + 1)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ArchiveError("damaged in the archive: its checksum differs")
    return data


def list_zip(paths: Sequence[Path], place_of: Callable[[str], str | None]) -> list[tuple[ZipEntry, str]]:
    """Files of a zip that `place_of` gives a path to, in the archive's order, with that path.

    Raises ArchiveError for a zip that is damaged or incomplete, and for one with names that lead elsewhere,
    links, encryption, or files that are much larger than the archive.
    """
    label = _label(paths)
    with open_parts(paths) as file:
        archive_size = file.seek(0, os.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                archive.NameToInfo.clear()  # a second hold on a million entries
            # zipfile forgives bytes that are missing or added before the list: every place is then wrong.
            if infos and min(info.header_offset for info in infos) != 0:
                raise zipfile.BadZipFile("the first file is not at its beginning")
        # NotImplementedError is what zipfile says of a version or spanning that it does not know.
        except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
            raise ArchiveError(
                f"{label} ({archive_size:,} bytes) is no complete zip ({error}): a part is missing, cut off "
                "or in the wrong order; compare the sizes with those at its source."
            ) from error
    found, size = [], 0
    infos.reverse()
    while infos:
        info = infos.pop()  # freed one by one: a million of them are half a gigabyte
        check_name(label, info.filename)
        if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 0x1:
            raise ArchiveError(
                f"{label} holds a link or an encrypted file ({info.filename}): not the archive it should be."
            )
        size += info.file_size
        place = None if info.is_dir() else place_of(info.filename)
        if place is not None:
            entry = ZipEntry(
                info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type
            )
            found.append((entry, place))
    check_growth(label, size, archive_size)
    return found


def read_tar(paths: Sequence[Path], suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a tar.gz with this suffix, in one pass; raises as `list_zip` does."""
    label = _label(paths)
    with open_parts(paths) as file:
        archive_size = file.seek(0, os.SEEK_END)
        file.seek(0)
        size = 0
        try:
            with tarfile.open(fileobj=file, mode="r|gz") as archive:
                for member in archive:
                    check_name(label, member.name)
                    size += member.size
                    check_growth(label, size, archive_size)
                    if member.isdir():
                        continue
                    if not member.isfile():
                        raise ArchiveError(
                            f"{label} holds a link or a device ({member.name}): not the archive it should be."
                        )
                    content = archive.extractfile(member) if member.name.endswith(suffix) else None
                    if content is not None:
                        yield member.name, content.read()
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise ArchiveError(
                f"{label} ({archive_size:,} bytes) is damaged or cut off ({error}): compare its size with "
                "that at its source."
            ) from error


def check_name(label: str, name: str) -> None:
    """Raise ArchiveError for a name that could lead out of the folder that it is extracted into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
        raise ArchiveError(
            f"{label} holds a file named {name!r}, which leads out of the folder: refused, it is not the "
            "archive it should be."
        )


def check_growth(label: str, size: int, archive_size: int) -> None:
    """Raise ArchiveError when the content is beyond what speech can pack to."""
    if size > _ALWAYS_ALLOWED_BYTES and size > _MAX_GROWTH * archive_size:
        raise ArchiveError(
            f"{label} would grow from {archive_size:,} to {size:,} bytes or more: no speech packs like "
            "that. It is not the archive it should be."
        )


def _label(paths: Sequence[Path]) -> str:
    return str(paths[0]) + (f" and {len(paths) - 1} more parts" if len(paths) > 1 else "")
