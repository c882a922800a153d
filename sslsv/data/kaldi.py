"""Kaldi data folders: their utterances, recordings and speakers."""

import posixpath
import re
from itertools import chain, starmap

from pyarrow import fs

from sslsv.data.list_text import filled_lines, list_blocks
from sslsv.data.recordings import segment_name
from sslsv.runs.folder import below, open_filesystem

_FILES = ("wav.scp", "segments", "utt2spk", "spk2utt")


class Kaldi:
    """Read the utterances of a Kaldi folder (`segments`, or `wav.scp` without it) and their speakers."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._files = self._pairs("wav.scp")
        self._segments = self._pairs("segments")
        self.utterances = self._segments or self._files
        self.speaker_of = self._pairs("utt2spk") or {
            utterance: speaker
            for speaker, names in self._pairs("spk2utt").items()
            for utterance in names.split()
        }

    def name_of(self, utterance: str) -> str:
        """Return the recording name of an utterance; a name that is no utterance is returned as it is."""
        if utterance not in self.utterances:
            return utterance
        recording, *times = self._segments.get(utterance, utterance).split()
        if self._segments and not re.fullmatch(r"[\d.e+-]+ [\d.e+-]+", " ".join(times)):
            rule = "where only start and end, in seconds, are read: give each channel a file of its own"
            raise ValueError(f"{self.folder}/segments has {' '.join(times)!r} for {utterance}, {rule}.")
        file = self._files.get(recording, "")
        if not file or file.endswith("|") or re.search(r"\.ark:\d+$", file):
            kind = "a command, which is not run" if file.endswith("|") else "an archive, which is not read"
            raise ValueError(
                f"{self.folder}/wav.scp must have a file for {recording}, but has {kind if file else 'none'}"
                f"{file and f' ({file[:120]})'}: write the samples to a file, and its path to wav.scp."
            )
        return segment_name(file, *map(float, times)) if times else file

    def _pairs(self, name: str) -> dict[str, str]:
        if not _exists(below(self.folder, name)):
            return {}
        pairs = {}
        blocks = list_blocks(self.folder, name)
        for number, line in chain.from_iterable(starmap(filled_lines, blocks)):
            key, *value = line.split(maxsplit=1)
            if not value or key in pairs:
                twice = f"{key} is listed twice; remove one of the lines"
                problem = twice if value else f"expected two fields, got {key!r}"
                raise ValueError(f"{self.folder}/{name}, line {number}: {problem}.")
            pairs[key] = value[0].strip()
        return pairs


def kaldi_folder(place: str) -> str | None:
    """Return the Kaldi folder at a path, or the folder of the Kaldi file at a path; None for others."""
    folder = posixpath.dirname(place) if posixpath.basename(place) in _FILES else place
    return folder if _exists(below(folder, "wav.scp")) else None


def list_files(place: str) -> list[str]:
    """Return the text files of a list: the list itself, or the files of a Kaldi folder."""
    folder = kaldi_folder(place)
    return [*filter(_exists, (below(folder, name) for name in (*_FILES, "trials")))] if folder else [place]


def _exists(location: str) -> bool:
    filesystem, path = open_filesystem(location)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)
