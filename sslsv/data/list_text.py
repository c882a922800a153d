"""Locate the text of a list, and read it in blocks of lines from UTF-8, UTF-16 or UTF-32."""

import codecs
import io
import os
from collections.abc import Iterator

from pyarrow import fs

from sslsv.runs.folder import absolute, below, is_uri, open_filesystem
from sslsv.settings import command_name

Root = str | os.PathLike[str]

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BLOCK_CHARACTERS = 2**18  # read and split at a time


def list_location(root: Root, name: str) -> str:
    """Return the location of a list: below `root`, unless its name is an absolute path or a URI."""
    return absolute(name if is_uri(name) else below(absolute(root), name)).rstrip("/")


def filled_lines(first: int, text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for each line of a block that is not blank."""
    return ((number, line) for number, line in enumerate(text.split("\n"), first) if line.strip())


def list_blocks(root: Root, name: str) -> Iterator[tuple[int, str]]:
    """Yield blocks of complete lines, (number of the first line, text), but no block of blank lines alone.

    Text is UTF-8, or the UTF that a byte order mark names; marks are ignored, even inside a joined list.
    Raises FileNotFoundError, and ValueError for an empty list, another encoding or a file that is no text.
    """
    location = list_location(root, name)
    filesystem, path = open_filesystem(location)
    try:
        file = filesystem.open_input_stream(path, compression=None, buffer_size=2**20)  # bytes per request
    except OSError as error:
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.Directory:
            raise ValueError(
                f"The list {location} is a folder, but not a Kaldi folder (it has no wav.scp): "
                f"`{command_name('prepare_data')} folder` makes lists of a folder of recordings."
            ) from error
        if kind != fs.FileType.NotFound:
            raise
        is_folder = is_uri(absolute(root)) or os.path.isdir(root)
        folder = root if is_folder else f"{root}, which is not a folder"
        raise FileNotFoundError(
            f"The list {location} does not exist. Lists are looked up below data.root ({folder}). "
            f"`{command_name('prepare_data')}` makes them: of VoxCeleb, of your recordings, or, with "
            "`demo data/demo`, of made-up voices for configs/demo.yml"
        ) from error
    raw = io.BufferedReader(file, 2**16)
    head, number, is_empty = raw.peek(2**10), 1, True
    encoding = next((codec for mark, codec in _MARKS.items() if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        raise ValueError(f"{location} is not text, or UTF-16 without a byte order mark (iconv -f UTF-16LE).")
    with io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape") as lines:
        while text := lines.read(_BLOCK_CHARACTERS) + lines.readline():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                number += text.count("\n", 0, error.start)
                line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0].strip()
                raise ValueError(
                    f"{location}, line {number}: {os.fsencode(line)[:120]!r} is not UTF-8. Convert it (iconv "
                    "-f LATIN1 -t UTF-8), and rename files with such names too (convmv)."
                ) from error
            text = text.replace("\ufeff", "")
            if text.strip():
                is_empty = False
                yield number, text
            number += text.count("\n")
    if is_empty:
        raise ValueError(f"The list {location} is empty.")
