"""Lists: the recordings of a corpus, their speakers, and the trials, which are pairs of recordings.

A train list has `speaker path` lines, a trial list `1|0 enrolment test` lines. Blanks separate the fields.
In a train list, the path is the rest of the line and may hold blanks. In a trial list, paths with blanks need
tabs between the fields. Lists of other tools are read too, see list_forms.py.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice, product

import numpy as np
import numpy.typing as npt

from sslsv.data.audio_files import check_names, find_audio_files, is_audio
from sslsv.data.kaldi import kaldi_folder
from sslsv.data.list_forms import IS_TARGET, RECORDINGS, TRAIN, TRIALS, Rows, is_trial_list
from sslsv.data.list_text import Root, list_location
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig
from sslsv.runs.folder import absolute

Indices = npt.NDArray[np.int64]

_MAX_TARGETS = 5000  # largest number of target trials drawn, and of nontarget trials
_NUM_PROBED = 10  # recordings checked per list, of which one must exist; checking a million takes minutes
# Leading folders that VoxCeleb's own lists leave out of their paths.
_PREFIXES = ("", "voxceleb1/", "voxceleb1/wav/", "wav/")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hold utterances and their speakers: utterance i is `paths[i]`, by `speaker_names[speakers[i]]`."""

    paths: list[str]  # relative to data.root, or absolute
    speakers: Indices  # (N,), 0 .. number of speakers - 1
    speaker_names: list[str]
    notes: tuple[str, ...] = ()  # messages about how the lists were read

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_speakers(self) -> int:
        """Return the number of different speakers."""
        return len(self.speaker_names)

    def of_utterances(self, kept: Indices) -> "Manifest":
        """Return the utterances `kept` (ascending indices); the speakers left are renumbered in order."""
        ids, speakers = np.unique(self.speakers[kept], return_inverse=True)
        names = [self.speaker_names[i] for i in ids]
        return replace(self, paths=[self.paths[i] for i in kept], speakers=speakers, speaker_names=names)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Hold pairs to compare: trial j compares recording `enrol[j]` with recording `test[j]`.

    Recording i is `paths[i]`. The same file may appear in several `versions`, each with another simulated
    room, noise and level.
    """

    paths: list[str]  # (R,) relative to data.root, or absolute
    enrol: Indices  # (J,) into paths
    test: Indices  # (J,) into paths
    targets: npt.NDArray[np.bool_]  # (J,), True: the same speaker
    versions: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (R,), 0 unless simulated
    lines: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (J,) of the list, from 1
    notes: tuple[str, ...] = ()  # messages about how the list was read

    def __post_init__(self) -> None:
        for name, count in (("versions", len(self.paths)), ("lines", len(self.targets))):
            if len(getattr(self, name)) != count:
                object.__setattr__(self, name, np.zeros(count, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.targets)


def open_corpus(section: DataConfig, held_out_speakers: int, seed: int) -> tuple[Manifest, Manifest | None]:
    """Return the training utterances of a run, and the utterances of the held-out speakers, if any.

    The index of an utterance in the first manifest is its id everywhere in the run. `data.fraction` applies
    after speakers are held out, and never changes who they are. Raises ValueError, FileNotFoundError.
    """
    manifest, held_out = read_train_lists(section.root, section.train_lists), None
    if held_out_speakers and section.held_out_lists:
        candidates = read_train_lists(section.root, section.held_out_lists)
        held_out = hold_out_speakers(candidates, held_out_speakers, seed)[1]
        held_out_paths = set(held_out.paths)
        kept = [i for i, path in enumerate(manifest.paths) if path not in held_out_paths]
        manifest = manifest.of_utterances(np.array(kept, dtype=np.int64))
    elif held_out_speakers:
        manifest, held_out = hold_out_speakers(manifest, held_out_speakers, seed)
    if section.fraction < 1:
        manifest = keep_fraction(manifest, section.fraction, seed, section.fraction_of == "each_speaker")
    return manifest, held_out


def read_train_lists(root: Root, lists: tuple[str, ...] | list[str]) -> Manifest:
    """Read and join lists of speakers and recordings; a speaker named in two lists is one speaker.

    If the recordings of this speaker lie in different folders, as in two corpora that number speakers from 1,
    a note says so. Lists and the paths in them are relative to `root` or absolute. Raises ValueError for a
    malformed line or a path listed twice, FileNotFoundError if a list or its first recordings are missing.
    """
    speaker_of: dict[str, int] = {}  # by path
    ids: dict[str, int] = {}
    notes: list[str] = []
    origins: dict[str, tuple[str, str]] = {}  # speaker -> (first list, folder above the speaker's)
    for name in lists:
        num_before = len(speaker_of)
        rows, first_paths = Rows(root, name, TRAIN), dict[str, str]()  # speaker -> first path
        for number, speaker, path in _resolved_rows(root, name, rows):
            if path in speaker_of:
                raise ValueError(f"{name}, line {number}: {path} is listed twice; remove one of the lines.")
            speaker_of[path] = ids.setdefault(speaker, len(ids))
            first_paths.setdefault(speaker, path)
        notes += rows.note(f"{len(first_paths):,} speakers, {len(speaker_of) - num_before:,} recordings")
        new = {s: (name, f"/{os.path.dirname(path)}/".split(f"/{s}/")[0]) for s, path in first_paths.items()}
        shared = Counter(origins[s][0] for s in new if s in origins and origins[s][1] != new[s][1])
        notes += [
            f"{count:,} speaker(s) are named in both {other} and {name} and taken as the same people: if "
            "they are not, give the ids of one list a prefix"
            for other, count in shared.items()
        ]
        origins = new | origins
    speakers = np.fromiter(speaker_of.values(), dtype=np.int64)
    return Manifest(paths=list(speaker_of), speakers=speakers, speaker_names=list(ids), notes=tuple(notes))


def read_trials(root: Root, file: str) -> Trials:
    """Read a trial list; the file and its paths are relative to `root` or absolute.

    VoxCeleb's own lists leave out the folders above the speakers. If the first recording that can be found
    needs one of `_PREFIXES`, all paths get this prefix. Raises ValueError for a malformed line,
    FileNotFoundError for a missing list or if none of its recordings can be found.
    """
    index: dict[str, int] = {}
    columns = [("lines", np.int64), ("targets", np.bool_), ("enrol", np.int64), ("test", np.int64)]
    rows = Rows(root, file, TRIALS)
    numbered = (
        (line, IS_TARGET[target], *(index.setdefault(path, len(index)) for path in pair))
        for line, target, *pair in rows
    )
    table = np.fromiter(numbered, dtype=columns)
    paths = list(map(path_resolver(root, file, list(index), _PREFIXES), index))
    values = {name: np.ascontiguousarray(table[name]) for name, _ in columns}
    return Trials(paths=paths, notes=rows.note(f"{len(table):,} trials"), **values)


def find_recordings(target: str, root: Root) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return (speaker or "", path) for each recording of a file, a folder or any list, and notes.

    A target that does not exist is looked up below `root`. The paths of a file or folder are absolute, the
    paths of a list are as listed. Raises ValueError and FileNotFoundError.
    """
    location = absolute(target) if os.path.exists(target) else list_location(root, target)
    if os.path.isfile(location) and is_audio(location):
        check_names([location])
        return [("", location)], ()
    if os.path.isdir(location):
        (files, note), is_kaldi = find_audio_files(location), bool(kaldi_folder(location))
        if files and is_kaldi:
            raise ValueError(
                f"{target} can be read in two ways, as a Kaldi folder and as {len(files):,} recordings: "
                f"give {target}/wav.scp for the first, and move wav.scp elsewhere for the second."
            )
        if files:
            return [("", file) for file in files], tuple(note.splitlines())
        if not is_kaldi:
            raise ValueError(f"{target} holds no audio files, nor a Kaldi folder's wav.scp.")
    if is_trial_list(root, location):
        trials = read_trials(root, location)
        return [("", path) for path in trials.paths], trials.notes
    rows = Rows(root, location, RECORDINGS)
    recordings = [(speaker, path) for _, speaker, path in _resolved_rows(root, target, rows)]
    return recordings, rows.note(f"{len(recordings):,} recordings")


def _resolved_rows(root: Root, name: str, rows: Rows) -> Iterator[tuple[int, str, str]]:
    # Yields (line, speaker, path), with slashes for backslashes if only such recordings exist.
    if not (first_rows := list(islice(rows, _NUM_PROBED))):
        raise ValueError(f"{name} lists nothing to train on: in a column of sets, the value must be `train`.")
    resolve = path_resolver(root, name, [path for _, _, path in first_rows])
    for number, speaker, path in chain(first_rows, rows):
        yield number, speaker, resolve(path)


def hold_out_speakers(manifest: Manifest, num_speakers: int, seed: int) -> tuple[Manifest, Manifest]:
    """Split the speakers into (training, held out); the same seed gives the same split.

    Speakers with two utterances or more are held out first, because only they allow target trials. Their
    labels are used for validation only. A run that must not see any label sets `num_speakers` to 0.
    """
    if num_speakers < 0 or num_speakers >= manifest.num_speakers:
        raise ValueError(
            f"{num_speakers} speakers cannot be held out of {manifest.num_speakers}: hold out 0 to "
            f"{manifest.num_speakers - 1}, so that some are left to train on."
        )
    rng = np.random.default_rng([seed, 0x5EED])
    counts = np.bincount(manifest.speakers, minlength=manifest.num_speakers)
    shuffled = rng.permutation(manifest.num_speakers)
    preferred = shuffled[np.argsort(counts[shuffled] < 2, kind="stable")]
    is_held_out = np.isin(manifest.speakers, preferred[:num_speakers])
    training = manifest.of_utterances(np.flatnonzero(~is_held_out))
    return training, manifest.of_utterances(np.flatnonzero(is_held_out))


def keep_fraction(manifest: Manifest, fraction: float, seed: int, of_each_speaker: bool) -> Manifest:
    """Return a fraction (up to 1) of all utterances, or of each speaker's utterances but at least one.

    With the same seed, a smaller fraction is a subset of a larger one. Speakers without utterances are
    dropped, so a classifier has fewer classes. Raises ValueError if no utterance is left.
    """
    order = np.random.default_rng([seed, 0xF4AC]).permutation(len(manifest))
    if of_each_speaker:
        by_speaker = order[np.argsort(manifest.speakers[order], kind="stable")]
        groups = np.split(by_speaker, np.cumsum(np.bincount(manifest.speakers))[:-1])
        kept = np.concatenate([group[: max(round(fraction * len(group)), 1)] for group in groups])
    else:
        kept = order[: round(fraction * len(manifest))]
    if not len(kept):
        raise ValueError(f"data.fraction={fraction:g} leaves none of {len(manifest)} utterances: raise it.")
    return manifest.of_utterances(np.sort(kept))


def make_trials(manifest: Manifest, seed: int, versions: int = 1) -> Trials:
    """Draw up to 5,000 target trials, about equally many per speaker, and at most as many nontarget trials.

    Each utterance occurs in `versions` versions (simulated channels). A target trial pairs two utterances of
    a speaker, or two versions of the only utterance. Raises ValueError for one speaker or no target pair.
    """
    rng = np.random.default_rng([seed, 0x781A15])
    utterances = np.repeat(np.arange(len(manifest), dtype=np.int64), versions)
    speakers = manifest.speakers[utterances]
    targets = _target_pairs(rng, utterances, speakers)
    if manifest.num_speakers < 2 or not len(targets):
        raise ValueError(
            f"Trials need at least 2 speakers, one of them with two utterances, but {manifest.num_speakers} "
            f"speakers with {len(manifest)} utterances are held out: hold out more, or validate on a list."
        )
    nontargets = _draw_pairs(rng, len(speakers), len(targets))
    nontargets = nontargets[speakers[nontargets[:, 0]] != speakers[nontargets[:, 1]]]
    nontargets = rng.permutation(nontargets)[: len(targets)]
    pairs = np.concatenate([targets, nontargets])
    labels = np.arange(len(pairs)) < len(targets)
    order = rng.permutation(len(pairs))
    used, pairs = np.unique(pairs[order], return_inverse=True)
    pairs = pairs.reshape(-1, 2)
    return Trials(
        paths=[manifest.paths[utterances[i]] for i in used],
        enrol=pairs[:, 0].astype(np.int64),
        test=pairs[:, 1].astype(np.int64),
        targets=labels[order],
        versions=used % versions,
    )


def _target_pairs(rng: np.random.Generator, utterances: Indices, speakers: Indices) -> Indices:
    order = np.argsort(speakers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(speakers[order])) + 1)
    limit = max(1, -(-_MAX_TARGETS // len(groups)))
    chosen = [np.zeros((0, 2), dtype=np.int64)]
    for group in groups:
        pairs = group[_draw_pairs(rng, len(group), limit)]
        differ = utterances[pairs[:, 0]] != utterances[pairs[:, 1]]
        pairs = pairs[differ] if differ.any() else pairs
        chosen.append(rng.permutation(pairs)[:limit].copy())  # without a copy, all pairs would stay in memory
    return rng.permutation(np.concatenate(chosen))[:_MAX_TARGETS]


def _draw_pairs(rng: np.random.Generator, size: int, num_pairs: int) -> Indices:
    # Returns all pairs of different numbers below `size`, or a random sample if there are too many.
    if size <= 2000:
        return np.stack(np.triu_indices(size, k=1), axis=1)
    pairs = np.unique(np.sort(rng.integers(size, size=(4 * num_pairs, 2)), axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def path_resolver(
    root: Root, name: str, paths: list[str], prefixes: tuple[str, ...] = ("",)
) -> Callable[[str], str]:
    """Return a function that maps listed paths to names of recordings, based on the first path that exists.

    The function may prepend one of `prefixes` or replace Windows backslashes. Raises FileNotFoundError if
    none of `paths` can be found.
    """
    recordings = open_recordings(root)
    for path, prefix in product(paths, prefixes):
        if recordings.has(prefix + path):
            return lambda listed: prefix + listed
        if "\\" in path and recordings.has(prefix + path.replace("\\", "/")):
            return lambda listed: prefix + listed.replace("\\", "/")
    raise FileNotFoundError(
        f"None of the first {len(paths)} recordings of {name} exists; first: "
        f"{recordings.location(paths[0])}. Paths in lists are relative to data.root ({root})."
    )


def find_lists(root: Root) -> list[str]:
    """Return the sorted lists directly in a folder: `*train_list`, `*trials*`, `*_test_*`, not trials.old."""
    is_list = re.compile(r"(train_list|(trials|_test_)[^.]*)(\.(txt|lst|csv|tsv|jsonl))?$").search
    names = (entry.name for entry in os.scandir(root) if entry.is_file() and not entry.name.startswith("."))
    return sorted(filter(is_list, names))
