"""Extract a zip file by file: complete ones are kept, the user's other files are never replaced."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sslsv.prepare_data.archives import ArchiveError, ZipEntry, open_parts, read_entry
from sslsv.prepare_data.disk import check_room, write_whole
from sslsv.prepare_data.progress_line import ProgressLine


@dataclass
class Extraction:
    """What became of the files of an archive."""

    num_written: int = 0
    num_kept: int = 0  # complete already: same size and checksum
    others: list[str] = field(default_factory=list)  # other content was there under this name, and stays
    damaged: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every file is there as the archive has it."""
        return not (self.others or self.damaged)

    def describe(self) -> str:
        """A sentence or two about the counts."""
        text = f"{self.num_written:,} files extracted, {self.num_kept:,} were there"
        for names, meaning in (
            (self.others, "differ from files of the same name that are there; those are left as they are"),
            (self.damaged, "are damaged in the archive"),
        ):
            if names:
                text += f"; {len(names):,} {meaning}: {', '.join(names[:3])}{' ...' if names[3:] else ''}"
        return text + "."


def extract(
    paths: Sequence[Path], entries: Sequence[tuple[ZipEntry, str]], folder: Path, title: str
) -> Extraction:
    """Write the listed files of a zip below a folder; a second run writes what is missing.

    Raises OSError when there is no room for all of them.
    """
    missing = sum(entry.size for entry, place in entries if not (folder / place).exists())
    check_room(folder, missing, f"Extracting {title}")
    result = Extraction()
    total = sum(entry.size for entry, _ in entries)
    with open_parts(paths) as archive, ProgressLine(f"extract {title}", total, "bytes") as progress:
        for entry, place in entries:
            target = folder / place
            if target.exists():
                if _is_the_same(target, entry):
                    result.num_kept += 1
                else:
                    result.others.append(place)
            else:
                try:
                    content = read_entry(archive, entry)
                except ArchiveError:
                    result.damaged.append(place)
                else:
                    write_whole(target, content)
                    result.num_written += 1
            progress.add(entry.size)
    return result


def _is_the_same(file: Path, entry: ZipEntry) -> bool:
    return os.path.getsize(file) == entry.size and zlib.crc32(file.read_bytes()) == entry.crc
