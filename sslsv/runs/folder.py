"""The folder that a run leaves behind, on a disk or in object storage: `<storage>/<name>/`.

config.yml        the resolved settings             metrics.jsonl   one JSON object per report
checkpoints/      see checkpoint.py                 summary.json    best and last metrics, written at the end
report.html       curves and tables                 run.json        identity: start, versions, wandb id
"""

import json
import math
import os
import posixpath
import time
from pathlib import Path
from typing import Any

from pyarrow import fs

from sslsv.runs.storage import below, is_uri, open_filesystem


def json_text(value: Any) -> str:
    """JSON for people to read: indented; NaN and infinity as null, what else JSON lacks as text."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunFolder:
    """Read and write the files of one run; whole files appear complete or not at all.

    `storage` is a folder or a URI that pyarrow knows (`s3://bucket/prefix`, `gs://...`).
    """

    def __init__(self, storage: str, name: str) -> None:
        place = storage if is_uri(storage) else str(Path(storage).expanduser().resolve())
        self.filesystem, root = open_filesystem(place)
        self.storage, self.name = storage, name
        self.root = posixpath.join(root, name)
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)
        # What a user or another program is told: a plain path, or a URI that is complete again.
        self.location = self.root if self.is_local else below(storage, name)

    @classmethod
    def at(cls, location: str) -> "RunFolder":
        """The run folder that has this `location`."""
        path, mark, options = location.partition("?") if is_uri(location) else (location, "", "")
        storage, name = posixpath.split(path.rstrip("/"))
        return cls((storage or ".") + mark + options, name)

    def path(self, name: str) -> str:
        """Full path of a file of the run, for the run's own file system."""
        return posixpath.join(self.root, name)

    def names(self, subfolder: str = "") -> list[str]:
        """Sorted names of the files directly below `subfolder`; empty when there is no such folder."""
        selector = fs.FileSelector(self.path(subfolder) if subfolder else self.root, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(entry.base_name for entry in found if entry.type == fs.FileType.File)

    def has(self, name: str) -> bool:
        """Whether the run has this file (a folder does not count)."""
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Content of a file; raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, first under a temporary name, then renamed: no reader meets half of it."""
        path = self.path(name)
        if not self.is_local:  # an object appears when its upload is complete: no temporary name needed
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.part"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave a renamed file without content
            os.replace(temporary, path)
        except OSError:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise

    def append_lines(self, name: str, lines: list[str]) -> None:
        """Append lines to a text file (object storage has no append: there the file is written again)."""
        content = "".join(line + "\n" for line in lines).encode()
        if self.is_local:
            os.makedirs(self.root, exist_ok=True)
            with open(self.path(name), "ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # a checkpoint, written later, must not survive its record
        else:
            self.write(name, (self.read(name) if self.has(name) else b"") + content)

    def delete(self, name: str) -> None:
        """Delete a file; raises FileNotFoundError where the file system tells."""
        self.filesystem.delete_file(self.path(name))

    def delete_parts(self, subfolder: str = "") -> None:
        """Delete what killed writers have left directly below `subfolder`; nobody may be writing there."""
        for name in self.names(subfolder):
            if name.endswith(".part"):
                self.delete(posixpath.join(subfolder, name))

    def delete_folder(self, name: str) -> None:
        """Delete a subfolder and all that is in it, if it is there."""
        self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True)
        if self.filesystem.get_file_info(self.path(name)).type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(name))

    def read_json(self, name: str) -> Any:
        """Content of a JSON file."""
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, as `json_text` makes it."""
        self.write(name, (json_text(value) + "\n").encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; a last line cut short by a crash is left out."""
        records = []
        if self.has("metrics.jsonl"):
            for line in self.read("metrics.jsonl").decode().splitlines():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return records

    def set_aside(self) -> str:
        """Rename the whole run folder to `<name>.old-<date>` and return the new name; nothing is lost."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        new_name = f"{self.name}.old-{stamp}"
        new_root = posixpath.join(posixpath.dirname(self.root), new_name)
        if self.is_local:
            self.filesystem.move(self.root, new_root)
        else:  # object stores know no folders to rename, only objects, each of which is copied there
            fs.copy_files(
                self.root,
                new_root,
                source_filesystem=self.filesystem,
                destination_filesystem=self.filesystem,
            )
            self._delete_copied()
        return new_name

    def _delete_copied(self) -> None:
        # config.yml, which makes it a run, or sweep.json goes last: what a kill in the middle leaves is still
        # refused or set aside, and no new run takes its checkpoints for its own.
        for entry in self.filesystem.get_file_info(fs.FileSelector(self.root)):
            if entry.type == fs.FileType.Directory:
                self.filesystem.delete_dir(entry.path)
            elif entry.base_name not in ("config.yml", "sweep.json"):
                self.filesystem.delete_file(entry.path)
        self.filesystem.delete_dir(self.root)
