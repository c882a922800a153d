"""Archives read where they lie, in one piece or in parts that are never joined on the disk.

Names that lead out of the folder, links and encrypted files are refused: the content comes from elsewhere.
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
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from sslsv.prepare_data.disk import check_room, progress, write_whole


class ArchiveError(ValueError):
    """An archive that is damaged, incomplete, or not to be trusted."""


class _JoinedParts(io.RawIOBase):
    """Several files as one, for reading and seeking."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = contextlib.ExitStack()
        with self._stack as stack:
            self._files = [stack.enter_context(path.open("rb")) for path in paths]
            self._stack = stack.pop_all()
        self._starts = [0, *accumulate(os.fstat(file.fileno()).st_size for file in self._files)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError(f"A place in a file is 0 or more: got {base + offset}.")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._position) - 1
        wanted = min(len(buffer), self._starts[number + 1] - self._position)
        data = os.pread(self._files[number].fileno(), wanted, self._position - self._starts[number])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._stack.close()
        super().close()


def open_parts(paths: Sequence[Path]) -> io.BufferedReader:
    """Return a buffered view of the parts, joined."""
    return io.BufferedReader(_JoinedParts(paths), buffer_size=2**18)


class ZipEntry(NamedTuple):
    """Where a file lies in a zip, so that any process reads it without the zip's list of a million others."""

    offset: int  # first byte of its local header
    compressed_size: int
    size: int
    crc: int
    is_deflated: bool


def read_entry(archive: BinaryIO, entry: ZipEntry) -> bytes:
    """Return the content of one file of a zip; raises ArchiveError when it is damaged."""
    archive.seek(entry.offset)
    header = archive.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ArchiveError("damaged in the archive: no file begins where its list says so")
    archive.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)  # its name and extra fields
    data = archive.read(entry.compressed_size)
    if entry.is_deflated:
        with contextlib.suppress(zlib.error):
            data = zlib.decompressobj(-15).decompress(data, entry.size + 1)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ArchiveError("damaged in the archive: its checksum differs")
    return data


def list_zip(paths: Sequence[Path], place_of: Callable[[str], str | None]) -> list[tuple[ZipEntry, str]]:
    """Return the files of a zip that `place_of` gives a path to, in the archive's order, with that path.

    Raises ArchiveError for a zip that is damaged or incomplete, holds what is refused, or nothing of ours.
    """
    label, found = _label(paths), []
    try:
        with open_parts(paths) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        # zipfile forgives bytes that are missing or added before the list: every place is then wrong.
        if infos and min(info.header_offset for info in infos) != 0:
            raise zipfile.BadZipFile("the first file is not at its beginning")
    # NotImplementedError is what zipfile says of a version or spanning that it does not know.
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(
            f"{label} is no complete zip ({error}): a part is missing, cut off or in the wrong order; "
            "compare the sizes with those at its source."
        ) from error
    for info in infos:
        is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        is_odd = is_link or info.flag_bits & 0x1 or info.compress_type not in (0, 8)
        _check_member(label, info.filename, is_odd)
        place = None if info.is_dir() else place_of(info.filename)
        if place is not None:
            sizes = (info.compress_size, info.file_size, info.CRC)
            found.append((ZipEntry(info.header_offset, *sizes, is_deflated), place))
    if not found:
        raise ArchiveError(f"{label} holds none of the files that are looked for: it is another archive.")
    return found


def extract(paths: Sequence[Path], entries: Sequence[tuple[ZipEntry, str]], folder: Path, title: str) -> bool:
    """Write the listed files of a zip that are not below a folder yet; returns whether all are there now.

    Raises OSError when there is no room for all of them.
    """
    missing = [(entry, place) for entry, place in entries if not (folder / place).exists()]
    check_room(folder, sum(entry.size for entry, _ in missing), f"Extracting {title}")
    damaged = []
    with open_parts(paths) as archive, progress(f"extract {title}", len(missing)) as bar:
        for entry, place in missing:
            try:
                write_whole(folder / place, read_entry(archive, entry))
            except ArchiveError:
                damaged.append(place)
            bar.update()
    print(f"{title}: {len(entries) - len(damaged):,} of {len(entries):,} files are there.")
    if damaged:
        print(f"{title}: {len(damaged):,} files are damaged in the archive: {', '.join(damaged[:3])} ...")
    return not damaged


def read_tar(paths: Sequence[Path], suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of a tar.gz with this suffix, in one pass; raises as `list_zip`."""
    label = _label(paths)
    try:
        with open_parts(paths) as file, tarfile.open(fileobj=file, mode="r|gz") as archive:
            for member in archive:
                _check_member(label, member.name, not member.isfile() and not member.isdir())
                content = archive.extractfile(member) if member.name.endswith(suffix) else None
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ArchiveError(f"{label} is damaged or cut off ({error}): compare its size.") from error


def _check_member(label: str, name: str, is_odd: bool | int) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
        fault = f"a file named {name!r}, which leads out of the folder: refused"
    elif is_odd:
        fault = f"a link, a device, an encrypted file or an unknown compression ({name}): refused"
    else:
        return
    raise ArchiveError(f"{label} holds {fault}, it is not the archive it should be.")


def _label(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} more parts" if paths[1:] else ""
    return f"{paths[0]}{more} ({sum(path.stat().st_size for path in paths):,} bytes)"
