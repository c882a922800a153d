"""Where the recordings below `data.root` come from: files in a folder, or a few large files made of them."""

import os
import time
from abc import ABC, abstractmethod

from sslsv.data.audio import AudioError, AudioFile, Recording
from sslsv.data.audio_files import find_audio_files
from sslsv.data.rounding import Waveform
from sslsv.runs.folder import absolute, below

PATIENCE_SECONDS = 600.0  # for a folder that was there when training began


class Recordings(ABC):
    """Recordings by name: the path in a list, relative to `root`, or absolute."""

    root: str  # absolute path, or URI

    @abstractmethod
    def open(self, name: str) -> Recording:
        """Open a recording; raises AudioError."""

    @abstractmethod
    def find(self, folder: str) -> list[str]:
        """Return the names of all recordings below a folder, in the order of their bytes; perhaps none."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Tell whether there is a recording of this name, readable or not."""

    def location(self, name: str) -> str:
        """Return the full path of a recording, for messages."""
        return below(self.root, name)

    def read_whole(self, name: str) -> Waveform:
        """Return all samples of a recording, (T,), full scale 1; raises AudioError."""
        with self.open(name) as recording:
            return recording.read(0, recording.num_samples)


class Folder(Recordings):
    """Recordings that are files below a folder, in any format."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = absolute(root)

    def open(self, name: str) -> Recording:
        """Open a file; raises AudioError.

        Where the whole folder is gone, such as a mount that was lost, it waits; OSError after ten minutes.
        """
        path = self.location(name)
        try:
            return AudioFile(path)
        except AudioError:
            if os.path.exists(path):
                raise
        self._wait()
        return AudioFile(path)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (os.path.isdir(self.root) and os.listdir(self.root)):
            if time.monotonic() > deadline:
                raise FileNotFoundError(
                    f"data.root, {self.root}, has been gone for {PATIENCE_SECONDS / 60:.0f} minutes; mount it"
                )
            time.sleep(0.5)

    def find(self, folder: str) -> list[str]:
        """Return the names of all files below a folder that audio files have the suffix of."""
        place = self.location(folder)
        found = find_audio_files(place) if os.path.isdir(place) else []
        names = [os.path.join(folder, os.path.relpath(path, place)) for path in found]
        return sorted(names, key=os.fsencode)

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return os.path.exists(self.location(name))
