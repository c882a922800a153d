"""Write to the disk safely: check the space first, write complete files only, keep replaced lists."""

import contextlib
import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm  # type: ignore[import-untyped]

from sslsv.data.audio import SAMPLE_RATE, AudioError, Recording

_MARGIN_BYTES = 64 * 2**20  # kept free for the file system itself
_NUM_PROBED = 8  # files read to estimate the size of a copy; compressed files are decoded for this
# The disk is full, a quota is used up, or a file has reached the largest allowed size.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def progress(title: str, total: int | None, unit: str = "files", done: int = 0) -> Any:
    """Return a progress bar on stderr, in a log a line every 30 s. The speed does not include `done`."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    options = {"unit": unit, "unit_scale": unit == "B", "mininterval": interval}
    return tqdm(desc=title, total=total, initial=done, **options)


def readable_bytes(count: float) -> str:
    """Format a number of bytes with three digits and a unit."""
    return str(tqdm.format_sizeof(count, "B"))


def sample_bytes(sizes: dict[str, int], open_file: Callable[[str], Recording]) -> float:
    """Estimate the bytes of all samples in files (name -> file size) from a few of the files."""
    file_bytes = decoded_bytes = 0
    for name in list(sizes)[:: len(sizes) // _NUM_PROBED + 1]:
        with contextlib.suppress(AudioError), open_file(name) as recording:
            file_bytes, decoded_bytes = file_bytes + sizes[name], decoded_bytes + 2 * recording.num_samples
    return sum(sizes.values()) * (decoded_bytes / file_bytes if file_bytes else 1)


def check_space(folder: Path, needed_bytes: float, purpose: str) -> None:
    """Raise OSError if the disk of a folder has too little free space for `needed_bytes`."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + _MARGIN_BYTES > free:
        raise OSError(
            f"{purpose} needs {readable_bytes(needed_bytes)}, but the disk of {folder} has "
            f"{readable_bytes(free)} free: make room, or give a folder on another disk."
        )


def sentence_of(error: Exception) -> str:
    """Return the message of an error; for a full disk, the message says how to continue."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return "The disk is full, or a limit set for it is reached: make room, and the same command goes on."
    return str(error)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it, so that an existing file is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that write the same file by mistake must not share the temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_audio(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16") -> None:
    """Write samples (T,) or (T, channels) by `write_whole`, in the format of the suffix."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format=path.suffix[1:].upper())
    write_whole(path, buffer.getvalue())


def write_list(path: Path, lines: Iterable[str]) -> None:
    """Write a list and print its state; replaced content is kept as NAME.old, NAME.old2 ..."""
    lines = list(lines)
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.exists() and path.read_bytes() == content:
        print(f"{path} is unchanged ({len(lines):,} lines).")
        return
    note = ""
    if path.exists():
        names = (f"{path.name}.old{number or ''}" for number in (0, *range(2, 10**6)))
        old = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        shutil.copy2(path, old)
        note = f"; the old list is kept as {old.name}"
    write_whole(path, content)
    print(f"{path} is written ({len(lines):,} lines){note}.")
