"""Where the recordings below `data.root` come from: files in a folder, or a few large files made of them."""

import os
from abc import ABC, abstractmethod

from sslsv.data.audio import AudioFile, Recording, Waveform
from sslsv.data.audio_files import find_audio_files
from sslsv.storage import absolute, below


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
        """Open a file; raises AudioError."""
        return AudioFile(self.location(name))

    def find(self, folder: str) -> list[str]:
        """Return the names of all files below a folder that audio files have the suffix of."""
        place = self.location(folder)
        found = find_audio_files(place) if os.path.isdir(place) else []
        names = [os.path.join(folder, os.path.relpath(path, place)) for path in found]
        return sorted(names, key=os.fsencode)

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return os.path.exists(self.location(name))
