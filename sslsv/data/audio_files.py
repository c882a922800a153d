"""Which files are recordings, by their suffix, and where they lie below a folder."""

import os
from pathlib import Path

# What libsndfile reads and people have.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".caf", ".voc"),
)

UNREAD_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm")  # sound that libsndfile does not read

BANK_FOLDERS = ("musan_split", "simulated_rirs")  # below data.root: noises and rooms, not speech to train on


def find_audio_files(folder: str | os.PathLike[str], suffixes: tuple[str, ...] = AUDIO_SUFFIXES) -> list[str]:
    """Return the paths of all recordings below a folder, sorted; hidden files and folders are left out.

    Links are followed, but every folder is entered once, under its own name if it has one here: a loop of
    links ends, and nothing is found twice. Raises FileNotFoundError if the folder does not exist, OSError for
    one that can't be read.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds the recordings.")
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    folders, links = [os.fspath(folder)], list[str]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    found.append(entry.path)
    return sorted(found)
