"""Lists: the recordings of a corpus, who speaks in them, and the pairs that are compared.

A train list has `speaker path` lines, a trial list `1|0 enrolment test` lines, blanks between the fields.
The path of a train list is the rest of its line and may hold blanks; paths with blanks in a trial list need
tabs between the fields.
"""

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, product

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import AUDIO_SUFFIXES
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig
from sslsv.runs.folder import absolute, below, is_uri, open_filesystem

Indices = npt.NDArray[np.int64]
Root = str | os.PathLike[str]

_MAX_TARGETS = 5000  # trials that are drawn of each kind
_NUM_PROBED = 10  # recordings of a train list that are looked for: looking for a million takes minutes
_NUM_NAMED = 3  # lines that a sentence names
_TRIAL_FORM = "1|0 enrolment test"
# Where the name of an audio file ends before its line does, the line holds more than one path.
_NAME_THEN_MORE = re.compile(rf"(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})\s", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hold utterances and who speaks them: utterance i is `paths[i]`, by `speaker_names[speakers[i]]`."""

    paths: list[str]  # relative to data.root, or absolute
    speakers: Indices  # (N,), 0 .. number of speakers - 1
    speaker_names: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_speakers(self) -> int:
        """Return the number of different speakers."""
        return len(self.speaker_names)

    def of_speakers(self, chosen: Indices) -> "Manifest":
        """Return the utterances of the chosen speakers; see `of_utterances`."""
        return self.of_utterances(np.flatnonzero(np.isin(self.speakers, chosen)))

    def of_utterances(self, kept: Indices) -> "Manifest":
        """Return some utterances, rising; speakers with any are numbered anew in the order of their ids."""
        ids, speakers = np.unique(self.speakers[kept], return_inverse=True)
        names = [self.speaker_names[i] for i in ids]
        return Manifest(paths=[self.paths[i] for i in kept], speakers=speakers, speaker_names=names)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Hold pairs to compare: trial j holds recording `enrol[j]` against recording `test[j]`.

    Recording i is `paths[i]`; where `versions` differ, the same file appears several times, each time in
    another simulated room, with other noise and at another level.
    """

    paths: list[str]  # (R,) relative to data.root, or absolute
    enrol: Indices  # (J,) into paths
    test: Indices  # (J,) into paths
    targets: npt.NDArray[np.bool_]  # (J,), True: the same speaker
    versions: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (R,), 0 unless simulated

    def __post_init__(self) -> None:
        if len(self.versions) != len(self.paths):
            object.__setattr__(self, "versions", np.zeros(len(self.paths), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.targets)


def open_corpus(section: DataConfig, held_out_speakers: int, seed: int) -> tuple[Manifest, Manifest | None]:
    """Return what a run trains on, and the utterances of speakers held out for validation, if any.

    Utterance i of the first manifest has the id i wherever the run speaks of it. `data.fraction` counts
    without the held-out speakers, who are the same for all fractions. Raises ValueError and FileNotFoundError
    with a sentence.
    """
    manifest, held_out = read_train_lists(section.root, section.train_lists), None
    if held_out_speakers:
        manifest, held_out = hold_out_speakers(manifest, held_out_speakers, seed)
    if section.fraction < 1:
        manifest = keep_fraction(manifest, section.fraction, seed, section.fraction_of == "each_speaker")
    return manifest, held_out


def read_train_lists(root: Root, lists: tuple[str, ...] | list[str]) -> Manifest:
    """Read lists of `speaker path` lines and join them; a speaker named in two lists is one speaker.

    Lists are relative to `root` (or absolute), and so are the paths in them. Raises ValueError for a
    malformed line or a path that is listed twice, FileNotFoundError for a missing list or recordings.
    """
    speaker_of: dict[str, int] = {}  # by path
    ids: dict[str, int] = {}
    for name in lists:
        num_before = len(speaker_of)
        for number, speaker, path in train_rows(root, name):
            if path in speaker_of:
                raise ValueError(f"{name}, line {number}: {path} is listed twice; remove one of the lines.")
            speaker_of[path] = ids.setdefault(speaker, len(ids))
        _prefix(root, name, list(islice(speaker_of, num_before, num_before + _NUM_PROBED)))
    speakers = np.fromiter(speaker_of.values(), dtype=np.int64)
    return Manifest(paths=list(speaker_of), speakers=speakers, speaker_names=list(ids))


def read_trials(root: Root, file: str) -> Trials:
    """Read `1|0 enrolment test` lines (1: same speaker); the file and its paths are relative to `root`.

    VoxCeleb's own lists leave out the leading `voxceleb1/`: it is added when the first recording that is
    there is only found so. Raises ValueError for a malformed line, FileNotFoundError for a missing list and
    where none of its recordings is there. For odd trials see `find_trial_faults`.
    """
    index: dict[str, int] = {}
    columns = [("targets", np.bool_), ("enrol", np.int64), ("test", np.int64)]
    rows = (
        (is_target, index.setdefault(first, len(index)), index.setdefault(second, len(index)))
        for _, is_target, first, second in trial_rows(root, file)
    )
    table = np.fromiter(rows, dtype=columns)
    prefix = _prefix(root, file, list(index), ("", "voxceleb1/"))
    paths = [prefix + path for path in index]
    return Trials(paths=paths, **{name: np.ascontiguousarray(table[name]) for name, _ in columns})


def hold_out_speakers(manifest: Manifest, num_speakers: int, seed: int) -> tuple[Manifest, Manifest]:
    """Split the speakers into (training, held out); the same seed gives the same split.

    Speakers with two utterances or more are held out first, because only they can make target trials. Their
    labels serve validation alone: a run that must not see any label uses `num_speakers` 0.
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
    return manifest.of_speakers(preferred[num_speakers:]), manifest.of_speakers(preferred[:num_speakers])


def keep_fraction(manifest: Manifest, fraction: float, seed: int, of_each_speaker: bool) -> Manifest:
    """Return a share of the utterances, up to 1, or of each speaker's, of whom one stays at least.

    With one seed, a smaller share is part of a larger one. Speakers of whom nothing is left are none any
    more: the classes of a classifier are those that are left. Raises ValueError where no utterance is.
    """
    order = np.random.default_rng([seed, 0xF4AC]).permutation(len(manifest))
    if of_each_speaker:
        by_speaker = order[np.argsort(manifest.speakers[order], kind="stable")]
        groups = np.split(by_speaker, np.cumsum(np.bincount(manifest.speakers))[:-1])
        kept = np.concatenate([group[: max(round(fraction * len(group)), 1)] for group in groups])
    else:
        kept = order[: round(fraction * len(manifest))]
    if not len(kept):
        raise ValueError(
            f"data.fraction is {fraction:g}, which leaves no utterance of {len(manifest)}: give a larger one."
        )
    return manifest.of_utterances(np.sort(kept))


def make_trials(manifest: Manifest, seed: int, versions: int = 1) -> Trials:
    """Draw up to 5,000 target trials and as many nontarget ones, every speaker about equally often.

    With `versions` above 1 each utterance is in that many versions; a speaker's two sides are different
    utterances, or two versions of the only one. Raises ValueError when there are fewer than two speakers or
    no target pair.
    """
    rng = np.random.default_rng([seed, 0x781A15])
    utterances = np.repeat(np.arange(len(manifest), dtype=np.int64), versions)
    speakers = manifest.speakers[utterances]
    targets = _target_pairs(rng, utterances, speakers)
    if manifest.num_speakers < 2 or not len(targets):
        raise ValueError(
            "Trials need at least 2 speakers, one of them with two utterances: the speakers held out are "
            f"{manifest.num_speakers}, with {len(manifest)} utterances; hold out more, or validate on a list."
        )
    nontargets = _all_or_many_pairs(rng, len(speakers), len(targets))
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
    share = max(1, -(-_MAX_TARGETS // len(groups)))
    kept = [np.zeros((0, 2), dtype=np.int64)]
    for group in groups:
        pairs = group[_all_or_many_pairs(rng, len(group), share)]
        differ = utterances[pairs[:, 0]] != utterances[pairs[:, 1]]
        pairs = pairs[differ] if differ.any() else pairs
        kept.append(rng.permutation(pairs)[:share].copy())  # a view would keep all pairs in memory
    return rng.permutation(np.concatenate(kept))[:_MAX_TARGETS]


def _all_or_many_pairs(rng: np.random.Generator, size: int, wanted: int) -> Indices:
    # Returns all pairs of different numbers below `size`, or a random part of them where those are too many.
    if size <= 2000:
        return np.stack(np.triu_indices(size, k=1), axis=1)
    pairs = np.unique(np.sort(rng.integers(size, size=(4 * wanted, 2)), axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _prefix(root: Root, name: str, paths: list[str], prefixes: tuple[str, ...] = ("",)) -> str:
    # Returns the folder that is missing before the paths of a list, found by the first recording that exists.
    recordings = open_recordings(root)
    for path, prefix in product(paths, prefixes):
        if recordings.has(prefix + path):
            return prefix
    raise FileNotFoundError(
        f"None of the first {len(paths)} recordings of {name} exists; first: "
        f"{recordings.location(paths[0])}. Paths in lists are relative to data.root ({root})."
    )


def find_trial_faults(trials: Trials) -> dict[str, npt.NDArray[np.bool_]]:
    """Mark the faulty trials, (J,) for each kind; the order of the two recordings does not matter.

    "self": a recording against itself; "repeated": the pair stands before it with the same label;
    "contradicting": the pair stands elsewhere with the other label. O(J log J).
    """
    low, high = np.minimum(trials.enrol, trials.test), np.maximum(trials.enrol, trials.test)
    pairs = np.unique(low * len(trials.paths) + high, return_inverse=True)[1]
    is_repeated = np.ones(len(pairs), dtype=np.bool_)
    is_repeated[np.unique(2 * pairs + trials.targets, return_index=True)[1]] = False
    target_share = np.bincount(pairs, trials.targets) / np.bincount(pairs)
    is_contradicting = ((target_share > 0) & (target_share < 1))[pairs]
    return {"self": low == high, "repeated": is_repeated, "contradicting": is_contradicting}


def describe_faults(faults: dict[str, npt.NDArray[np.bool_]], root: Root, file: str) -> str:
    """Return the faults as a phrase that names the first lines of the list they were found in, or ""."""
    lines = np.array([number for number, *_ in trial_rows(root, file)])
    words = ("of a recording against itself", "listed again", "listed with the other label too")
    return ", ".join(
        f"{is_faulty.sum()} {kind} (line {', '.join(map(str, lines[is_faulty][:_NUM_NAMED]))})"
        for kind, is_faulty in zip(words, faults.values(), strict=True)
        if is_faulty.any()
    )


def train_rows(root: Root, name: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, speaker, path) of a train list below `root`, or given by an absolute path.

    Raises ValueError for a line that is no `speaker path` and for an empty list, FileNotFoundError.
    """
    for number, line in list_lines(root, name):
        speaker, *rest = line.split(maxsplit=1)
        path = "".join(rest).rstrip()
        _check_paths(name, number, "speaker path", path)
        yield number, speaker, path


def trial_rows(root: Root, name: str) -> Iterator[tuple[int, bool, str, str]]:
    """Yield (line number, is target, enrolment path, test path) of a trial list; see `train_rows`."""
    for number, line in list_lines(root, name):
        fields = _trial_fields(line)
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ValueError(
                f"{name}, line {number}: expected `{_TRIAL_FORM}`, got {line.strip()[:120]!r}. Paths with "
                "blanks in them need tabs between the fields."
            )
        label, enrolment, test = fields
        _check_paths(name, number, _TRIAL_FORM, enrolment, test)
        yield number, label == "1", enrolment, test


def is_trial_list(root: Root, name: str) -> bool:
    """Tell trials from a train list by the first line that is not blank; raises as the readers do."""
    _, line = next(list_lines(root, name))
    fields = _trial_fields(line)
    return len(fields) == 3 and fields[0] in ("0", "1") and bool(_NAME_THEN_MORE.search(line.strip()))


def why_unlistable(path: str) -> str | None:
    """Return why no list can hold a path, or None where one can."""
    if not path:
        return "is missing"
    if "\n" in path or "\r" in path:
        return "has a line break in its name"
    if path != path.strip():
        return "begins or ends with a blank"
    if ".." in path and ".." in path.split("/"):
        return "has a '..' in it"  # it hides where the path leads; an absolute one shows it
    if (" " in path or "\t" in path) and _NAME_THEN_MORE.search(path):
        return "has a blank after what ends as an audio file's name does"
    return None


def find_lists(root: Root) -> list[str]:
    """Return the names of the lists directly in a folder: `*train_list`, `*trials*`, `*_test_*`, sorted."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_file())
    return [name for name in names if re.search(r"train_list$|trials|_test_", name) and "." not in name]


def list_lines(root: Root, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines of a list that are not blank, numbered from 1.

    A byte order mark is ignored. Names of files need not be valid UTF-8: such bytes come through as they are.
    Raises FileNotFoundError, and ValueError for an empty list.
    """
    place = list_location(root, name)
    filesystem, path = open_filesystem(place)
    try:
        file = filesystem.open_input_stream(path, compression=None, buffer_size=2**20)  # bytes of a request
    except (FileNotFoundError, IsADirectoryError) as error:
        is_folder = is_uri(absolute(root)) or os.path.isdir(root)
        folder = root if is_folder else f"{root}, which is not a folder"
        raise FileNotFoundError(
            f"The list {place} does not exist. Lists are looked up below data.root ({folder}). `python -m "
            "sslsv.prepare_data` makes them: of VoxCeleb, of your recordings, or, with `demo data/demo`, of "
            "made-up voices for configs/demo.yml"
        ) from error
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        lines = ((number, line) for number, line in enumerate(text, start=1) if not line.isspace())
        first = next(lines, None)
        if first is None:
            raise ValueError(f"The list {place} is empty.")
        yield from chain([first], lines)


def list_location(root: Root, name: str) -> str:
    """Return where a list lies: below `root`, unless its name is an absolute path or a URI."""
    return absolute(name if is_uri(name) else below(absolute(root), name))


def _trial_fields(line: str) -> list[str]:
    # Paths with blanks in them need tabs between the fields.
    return line.rstrip("\r\n").split("\t") if line.count("\t") == 2 else line.split()


def _check_paths(name: str, number: int, form: str, *paths: str) -> None:
    for path in paths:
        if why := why_unlistable(path):
            raise ValueError(f"{name}, line {number}: the path {path[:120]!r} {why}; expected `{form}`.")
