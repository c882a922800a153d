"""Lists: which recordings there are, who speaks in them, and which pairs are compared."""

import os
from array import array
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sslsv.data.list_files import train_rows, trial_rows
from sslsv.data.recordings import Recordings
from sslsv.data.shards import open_recordings
from sslsv.data.trial_faults import check_trials
from sslsv.runs.folder import absolute, is_uri

Indices = npt.NDArray[np.int64]

_PROBED = 10  # files looked for when a list is read: a list of a million is not worth a million stats


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Utterances and their speakers; utterance i is `paths[i]`, spoken by `speaker_names[speakers[i]]`."""

    paths: list[str]  # relative to data.root, or absolute
    speakers: Indices  # (N,), 0 .. number of speakers - 1
    speaker_names: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_speakers(self) -> int:
        """Number of different speakers."""
        return len(self.speaker_names)

    def of_speakers(self, chosen: npt.ArrayLike) -> "Manifest":
        """Return the utterances of the chosen speaker ids, renumbered from 0 in ascending order."""
        ids = np.unique(np.asarray(chosen, dtype=np.int64))
        kept = np.flatnonzero(np.isin(self.speakers, ids))
        return Manifest(
            paths=[self.paths[i] for i in kept],
            speakers=np.searchsorted(ids, self.speakers[kept]).astype(np.int64),
            speaker_names=[self.speaker_names[i] for i in ids],
        )


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Pairs to compare: trial j holds recording `enrol[j]` against recording `test[j]`.

    Recording i is `paths[i]`; where `versions` differ, the same file appears several times, each time in
    another simulated room, with other noise and at another level.
    """

    paths: list[str]  # (R,) relative to data.root, or absolute
    enrol: Indices  # (J,), into paths
    test: Indices  # (J,), into paths
    targets: npt.NDArray[np.bool_]  # (J,), True: the same speaker
    versions: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (R,), 0 unless simulated

    def __post_init__(self) -> None:
        if len(self.versions) != len(self.paths):
            object.__setattr__(self, "versions", np.zeros(len(self.paths), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.targets)


def read_train_lists(root: str | os.PathLike[str], lists: tuple[str, ...] | list[str]) -> Manifest:
    """Read lists of `speaker path` lines and join them; a speaker named in two lists is one speaker.

    Lists are relative to `root` (or absolute), and so are the paths in them. Raises ValueError for a
    malformed line or a path that is listed twice, FileNotFoundError for a missing root, list or recordings.
    """
    _check_root(root)
    if not lists:
        raise ValueError("data.train_lists is empty: name at least one list of `speaker path` lines.")
    paths: list[str] = []
    speakers = array("q")
    ids: dict[str, int] = {}
    for name in lists:
        first = len(paths)
        for _, speaker, path in train_rows(root, name):
            speakers.append(ids.setdefault(speaker, len(ids)))
            paths.append(path)
        _check_some_exist(root, name, paths[first : first + _PROBED])
    if len(set(paths)) < len(paths):
        raise ValueError(_first_repetition(root, lists))
    return Manifest(paths=paths, speakers=np.array(speakers, dtype=np.int64), speaker_names=list(ids))


def read_trials(root: str | os.PathLike[str], file: str, *, is_strict: bool = True) -> Trials:
    """Read `1|0 enrolment test` lines (1: same speaker); the file and its paths are relative to `root`.

    VoxCeleb's own lists leave out the leading `voxceleb1/`: it is added when the first recording that is
    there is only found so. Raises ValueError for a malformed line or an unknown label and, if `is_strict`,
    for self-trials and for pairs listed twice or with both labels; FileNotFoundError for a missing file and
    where none of the recordings (if `is_strict`, of the first ten) is there.
    """
    _check_root(root)
    index: dict[str, int] = {}
    enrol, test, targets = array("q"), array("q"), bytearray()
    for _, is_target, first, second in trial_rows(root, file):
        targets.append(is_target)
        enrol.append(index.setdefault(first, len(index)))
        test.append(index.setdefault(second, len(index)))
    paths = list(index)
    probed = paths[:_PROBED] if is_strict else paths
    if _lacks_prefix(open_recordings(root), probed):
        paths = [f"voxceleb1/{path}" for path in paths]
    else:
        _check_some_exist(root, file, probed)
    trials = Trials(
        paths=paths,
        enrol=np.array(enrol, dtype=np.int64),
        test=np.array(test, dtype=np.int64),
        targets=np.array(targets, dtype=np.bool_),
    )
    if is_strict:
        check_trials(trials, root, file)
    return trials


def hold_out_speakers(manifest: Manifest, num_speakers: int, seed: int) -> tuple[Manifest, Manifest]:
    """Split the speakers into (training, held out); the same seed gives the same split.

    Speakers with two utterances or more are held out first, because only they can make target trials. Their
    labels serve validation alone: a run that must not see any label uses `num_speakers` 0.
    """
    if num_speakers < 0 or num_speakers >= manifest.num_speakers:
        raise ValueError(
            f"evaluation.held_out_speakers is {num_speakers}, but the lists have {manifest.num_speakers} "
            f"speakers: hold out at most {manifest.num_speakers - 1}, so that some are left to train on."
        )
    rng = np.random.default_rng([seed, 0x5EED])
    counts = np.bincount(manifest.speakers, minlength=manifest.num_speakers)
    shuffled = rng.permutation(manifest.num_speakers)
    preferred = shuffled[np.argsort(counts[shuffled] < 2, kind="stable")]
    return manifest.of_speakers(preferred[num_speakers:]), manifest.of_speakers(preferred[:num_speakers])


def make_trials(manifest: Manifest, seed: int, versions: int = 1, max_targets: int = 5000) -> Trials:
    """Draw trials, as many nontargets as targets where there are enough, every speaker about equally often.

    With `versions` above 1 each utterance is in that many versions; a speaker's two sides are different
    utterances, or two versions of the only one. Raises ValueError when there are fewer than two speakers or
    no target pair.
    """
    if manifest.num_speakers < 2:
        raise ValueError(f"Trials need at least 2 speakers: the list has {manifest.num_speakers}.")
    rng = np.random.default_rng([seed, 0x781A15])
    utterances = np.repeat(np.arange(len(manifest), dtype=np.int64), versions)
    speakers = manifest.speakers[utterances]
    targets = _target_pairs(rng, utterances, speakers, max_targets)
    if not len(targets):
        raise ValueError(
            "No speaker has two utterances, so there is no target trial: give lists with several utterances "
            "of a speaker, or ask for versions=2."
        )
    nontargets = _nontarget_pairs(rng, speakers, len(targets))
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


def _target_pairs(
    rng: np.random.Generator, utterances: Indices, speakers: Indices, max_targets: int
) -> Indices:
    order = np.argsort(speakers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(speakers[order])) + 1)
    share = max(1, -(-max_targets // len(groups)))
    kept = [np.zeros((0, 2), dtype=np.int64)]
    for group in groups:
        pairs = group[_all_or_many_pairs(rng, len(group), share)]
        differ = utterances[pairs[:, 0]] != utterances[pairs[:, 1]]
        pairs = pairs[differ] if differ.any() else pairs
        kept.append(rng.permutation(pairs)[:share].copy())  # a view would keep all pairs in memory
    return rng.permutation(np.concatenate(kept))[:max_targets]


def _nontarget_pairs(rng: np.random.Generator, speakers: Indices, count: int) -> Indices:
    pairs = _all_or_many_pairs(rng, len(speakers), count)
    pairs = pairs[speakers[pairs[:, 0]] != speakers[pairs[:, 1]]]
    return rng.permutation(pairs)[:count].astype(np.int64)


def _all_or_many_pairs(rng: np.random.Generator, size: int, wanted: int) -> Indices:
    # All pairs of different numbers below `size`; where those are too many, enough to choose `wanted` from.
    if size <= 2000:
        return np.stack(np.triu_indices(size, k=1), axis=1)
    pairs = np.unique(np.sort(rng.integers(size, size=(4 * wanted, 2)), axis=1), axis=0)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _first_repetition(root: str | os.PathLike[str], lists: tuple[str, ...] | list[str]) -> str:
    places: dict[str, str] = {}
    for name in lists:
        for number, _, path in train_rows(root, name):
            place = f"{name}, line {number}"
            if path in places:
                return f"{path} is listed twice: {places[path]} and {place}. Remove one of the lines."
            places[path] = place
    return "A path was listed twice when the lists were first read, and is not any more: try again."


def _check_root(root: str | os.PathLike[str]) -> None:
    place = absolute(root)
    if not is_uri(place) and not os.path.isdir(place):
        raise FileNotFoundError(
            f"data.root is {root}, which is not a folder. Give the folder that holds the lists."
        )


def _lacks_prefix(recordings: Recordings, paths: list[str]) -> bool:
    for path in paths:
        if recordings.has(path):
            return False
        if recordings.has(f"voxceleb1/{path}"):
            return True
    return False


def _check_some_exist(root: str | os.PathLike[str], name: str, paths: list[str]) -> None:
    recordings = open_recordings(root)
    if not any(recordings.has(path) for path in paths):
        raise FileNotFoundError(
            f"None of the first {len(paths)} recordings of {name} exists; first: "
            f"{recordings.location(paths[0])}. Paths in lists are relative to data.root ({root})."
        )
