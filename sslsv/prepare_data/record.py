"""Which corpora are complete: `prepared.json` below data.root, so that no archive is opened for them."""

import contextlib
import json
import os
from pathlib import Path

from sslsv.prepare_data.disk import write_whole


def count_files(folder: Path, suffixes: tuple[str, ...] = (".wav", ".flac")) -> int:
    """Number of files with these suffixes below a folder, through links; hidden ones do not count."""
    return sum(
        name.endswith(suffixes) and not name.startswith(".")
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def is_prepared(root: Path, corpus: str, folder: str) -> bool:
    """Whether a corpus was complete once and still has as many files."""
    num_files = _read(root).get(corpus)
    return num_files is not None and count_files(root / folder) >= num_files


def record_prepared(root: Path, corpus: str, folder: str) -> int:
    """Note that a corpus is complete as it is; returns its number of files."""
    num_files = count_files(root / folder)
    content = {**_read(root), corpus: num_files}
    write_whole(root / "prepared.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return num_files


def _read(root: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((root / "prepared.json").read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return {name: count for name, count in content.items() if isinstance(count, int)}
    return {}
