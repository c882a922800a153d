"""What `prepare_data pack` packs: the recordings of the lists, noises and rooms."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sslsv.data.audio import AUDIO_SUFFIXES, AudioError
from sslsv.data.lists import is_trial_list, read_trials, train_rows
from sslsv.data.recordings import Folder
from sslsv.data.section import NOISE_FOLDER, RIR_FOLDER

MUSAN_DIR, RIRS_DIR = NOISE_FOLDER, RIR_FOLDER

_PROBED = 64  # recordings whose lengths tell how much room all will take


@dataclass(frozen=True)
class Contents:
    """What to pack: recordings by name, sorted; which of them are rooms; the lists that name them."""

    recordings: Folder
    names: list[str]
    rooms: frozenset[str]
    lists: list[str]

    def identity(self) -> str:
        """Digest of names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for name in (*self.names, *self.lists):
            try:
                status = os.stat(self.recordings.location(name))
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                stamp = "missing"
            digest.update(os.fsencode(name) + f"\0{stamp}\0".encode())
        return digest.hexdigest()

    def estimated_bytes(self) -> float:
        """Room that the samples will take, from the lengths of some recordings all over the corpus."""
        probed = self.names[:: max(1, len(self.names) // _PROBED)]
        num_samples = 0
        for name in probed:
            with contextlib.suppress(AudioError), self.recordings.open(name) as recording:
                num_samples += recording.num_samples
        return 2 * num_samples / len(probed) * len(self.names)

    def parts(self, part_bytes: int) -> list[list[str]]:
        """The names in parts of about so many bytes of files."""
        parts: list[list[str]] = [[]]
        size = 0
        for name in self.names:
            if size >= part_bytes:
                parts.append([])
                size = 0
            parts[-1].append(name)
            path = self.recordings.location(name)
            size += os.path.getsize(path) if os.path.exists(path) else 0
        return parts


def find_contents(
    root: Path, lists: list[str] | None, musan_dir: str | None, rirs_dir: str | None
) -> Contents:
    """Find the recordings of the lists (None: all lists directly in `root`), the noises and the rooms."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one that holds the lists.")
    recordings = Folder(root)
    chosen = (
        lists if lists is not None else [name for name in sorted(os.listdir(root)) if _is_list(root, name)]
    )
    if not chosen:
        raise ValueError(f"{root} holds no list of recordings: name some with --lists, below {root}.")
    rooms = _bank(recordings, rirs_dir, RIRS_DIR, "rirs")
    names = {*_bank(recordings, musan_dir, MUSAN_DIR, "musan"), *rooms}
    for name in chosen:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"The list {name} does not lie below {root}: its copy would have no place.")
        if is_trial_list(root, name):
            names.update(read_trials(root, name, is_strict=False).paths)
        else:
            names.update(path for _, _, path in train_rows(root, name))
    return Contents(recordings, sorted(names, key=os.fsencode), frozenset(rooms), chosen)


def _bank(recordings: Folder, given: str | None, default: str, name: str) -> list[str]:
    found = recordings.find(given or default)
    if not found:
        place = recordings.location(given or default)
        if given is not None:
            raise ValueError(
                f"--{name}-dir {given}: there is no audio in {place}; name a folder that has some."
            )
        print(f"{place} holds no audio: packed without it.")
    return found


def _is_list(root: Path, name: str) -> bool:
    # Trials, or `speaker path` lines whose first path is there.
    if not (root / name).is_file() or Path(name).suffix.lower() in AUDIO_SUFFIXES or name.startswith("."):
        return False
    try:
        if is_trial_list(root, name):
            return True
        _, _, path = next(train_rows(root, name))
    except ValueError:
        return False
    return (root / path).is_file()
