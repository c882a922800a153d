"""Read trial lists, draw trials from held-out speakers, and hold lists with their scores."""

import functools
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow import fs

from sslsv.config import Config
from sslsv.data.audio import Waveform
from sslsv.data.kaldi import list_files
from sslsv.data.list_text import list_location
from sslsv.data.lists import Manifest, Trials, make_trials, open_corpus, read_trials
from sslsv.data.recordings import open_recordings
from sslsv.data.views import ChannelSimulator
from sslsv.evaluation.intervals import speakers_from_trials
from sslsv.runs.folder import absolute, open_filesystem

MAX_NAMED = 5  # recordings, lines or labels that an error message lists
AGREEMENT = 0.99  # a path component names speakers if this share of each kind of trials agrees with it
NUM_VERSIONS = 2  # simulated channels per held-out utterance; with two, few speakers give enough trials


@dataclass(frozen=True)
class TrialSet:
    """Hold trials and a function that reads their recordings: `read(i)` is float32 (T,) at 16 kHz."""

    name: str
    trials: Trials
    read: Callable[[int], Waveform]
    is_simulated: bool = False  # False: recording i is the unchanged file `trials.paths[i]`


def open_trial_sets(config: Config) -> tuple[Manifest, TrialSet | None, list[TrialSet]]:
    """Return training utterances, validation trials (or None) and test trials; see `open_training_side`."""
    manifest, validation = open_training_side(config)
    return manifest, validation, [listed_trials(config.data.root, name) for name in config.evaluation.test]


def open_training_side(config: Config) -> tuple[Manifest, TrialSet | None]:
    """Return the training utterances and the validation trials of the settings (None if there are none).

    Validation trials come from the list `evaluation.validation`, or are drawn from held-out speakers, whose
    utterances are then removed from the training manifest. Raises ValueError or FileNotFoundError.
    """
    evaluation = config.evaluation
    if evaluation.validation is not None:
        manifest, _ = open_corpus(config.data, 0, config.seed)
        return manifest, listed_trials(config.data.root, evaluation.validation)
    manifest, held_out = open_corpus(config.data, evaluation.held_out_speakers, config.seed)
    return manifest, held_out_trials(config, held_out) if held_out else None


def listed_trials(root: str, name: str) -> TrialSet:
    """Read the trials of a list, with unchanged recordings; raises ValueError or FileNotFoundError."""
    trials = _read(root, name)
    recordings = open_recordings(root)
    return TrialSet(Path(name).name, trials, lambda i: recordings.read_whole(trials.paths[i]))


def held_out_trials(config: Config, held_out: Manifest) -> TrialSet:
    """Draw trials from held-out training speakers.

    With `held_out_is_shifted` every recording occurs in two versions, each with a simulated room, noise and
    level of its own, drawn from (seed, recording, version). Without it, trials of a corpus with one session
    per speaker measure the channel.
    """
    recordings, is_shifted = open_recordings(config.data.root), config.evaluation.held_out_is_shifted
    trials = make_trials(held_out, config.seed, versions=NUM_VERSIONS if is_shifted else 1)
    if not is_shifted:
        return TrialSet("validation", trials, lambda i: recordings.read_whole(trials.paths[i]))
    simulator = ChannelSimulator(recordings, config.data, config.seed)

    # Simulating a room again costs more than keeping some waveforms in memory, at 64 kB per second of audio.
    read = functools.lru_cache(512)(lambda i: simulator.read(trials.paths[i], int(trials.versions[i])))
    return TrialSet("validation", trials, read, is_simulated=True)


def count_trials(trials: Trials) -> dict[str, int]:
    """Return the numbers of trials and recordings, for reports and evaluation.json."""
    targets = int(trials.targets.sum())
    counts = {"trials": len(trials), "targets": targets, "nontargets": len(trials) - targets}
    return counts | {"recordings": len(trials.paths)}


@dataclass(frozen=True)
class TrialList:
    """Hold a list of `sslsv evaluate`: the trials to score, counts of what was left out, and the results."""

    name: str  # the list's file name
    file: str  # path or URI
    root: str  # folder of the recordings
    trials: Trials
    left_out: dict[str, int]  # counts above 0, such as "missing_recordings", "skipped_trials"
    # Scores (J,) by name of the scoring, higher = more similar; the first scoring is the main one.
    scores: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)  # the list's part of evaluation.json

    def without(self, bad: Collection[int], reason: str) -> "TrialList":
        """Leave out the recordings `bad`, counted as `reason`; ValueError if a kind of trial is gone."""
        old, pairs = self.trials, np.stack([self.trials.enrol, self.trials.test])
        is_kept = ~np.isin(pairs, list(bad)).any(axis=0)
        targets = old.targets[is_kept]
        if targets.all() or not targets.any():
            raise ValueError(
                f"{self.name}: of {len(old)} trials {targets.sum()} target and {(~targets).sum()} nontarget "
                "trials can be scored, and both kinds are needed; is --root the folder that its paths are "
                "relative to?"
            )
        # Recordings that are no longer in any trial are left out too.
        used, indices = np.unique(pairs[:, is_kept], return_inverse=True)
        enrol, test = indices.reshape(2, -1).astype(np.int64)
        trials = replace(old, paths=[old.paths[i] for i in used], versions=old.versions[used])
        trials = replace(trials, enrol=enrol, test=test, targets=targets, lines=old.lines[is_kept])
        skipped = self.left_out.get("skipped_trials", 0) + int((~is_kept).sum())
        left_out = self.left_out | {reason: len(bad), "skipped_trials": skipped}
        return replace(self, trials=trials, left_out=left_out)

    def refusal(self, bad: Collection[int], problem: str) -> ValueError:
        """Return an error that names some of the recordings `bad` with their lines, and says what to do."""
        trials = self.trials
        lines = [trials.lines[(trials.enrol == i) | (trials.test == i)][0] for i in sorted(bad)[:MAX_NAMED]]
        named = [f"{trials.paths[i]} (line {line})" for i, line in zip(sorted(bad), lines, strict=False)]
        return ValueError(
            f"{len(bad)} of {len(trials.paths)} recordings of {self.file} {problem}: {', '.join(named)}"
            f"{', ...' * (len(bad) > MAX_NAMED)}; correct the list, give the right --root, or leave their "
            "trials out with --allow-missing"
        )


def open_list(root: str, name: str, *, is_lenient: bool) -> TrialList:
    """Read a list, given by its name below `root` or by a path, and check that every recording exists.

    Missing recordings raise ValueError; if `is_lenient`, they are left out and counted instead. A missing
    list raises FileNotFoundError. Repeated pairs, and a recording against itself, are scored as listed.
    """
    file = find_list(root, name)
    trial_list = TrialList(posixpath.basename(file), file, root, _read(root, file), {})
    recordings = open_recordings(root)
    missing = [i for i, path in enumerate(trial_list.trials.paths) if not recordings.has(path)]
    if missing and not is_lenient:
        raise trial_list.refusal(missing, "do not exist")
    return trial_list.without(missing, "missing_recordings") if missing else trial_list


def find_list(root: str, name: str) -> str:
    """Return the location of a list: below `root`, or else relative to the working directory."""
    file = list_location(root, name)
    filesystem, path = open_filesystem(file)
    if os.path.exists(name) and filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return absolute(name)
    return file


def source_of(file: str) -> dict[str, str]:
    """Return the location of a list and a digest of its content, for results."""
    digest = hashlib.sha256()
    for location in list_files(file):
        filesystem, path = open_filesystem(location)
        with filesystem.open_input_stream(path, compression=None) as content:
            digest.update(content.read())
    return {"file": file, "sha256": digest.hexdigest()}


def digest_of_lists(config: Config) -> str:
    """Return a digest of the lists that a run trains and validates on."""
    lists = (*config.data.train_lists, *config.data.held_out_lists, config.evaluation.validation)
    digests = [source_of(find_list(config.data.root, name))["sha256"] for name in lists if name]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def speaker_path_parts(trials: Trials) -> dict[int, set[str]]:
    """Return the path components that name speakers, {position from the end (1: file name): values}.

    These components are equal in target trials and differ in nontarget trials (`AGREEMENT`).
    """
    parts = [path_parts(path) for path in trials.paths]
    columns: dict[int, set[str]] = {}
    for position in range(1, min(map(len, parts)) + 1):
        names, codes = np.unique([each[-position] for each in parts], return_inverse=True)
        is_same = codes[trials.enrol] == codes[trials.test]
        if min(np.mean(is_same[trials.targets]), np.mean(~is_same[~trials.targets])) >= AGREEMENT:
            columns[position] = set(names.tolist())
    return columns


def path_parts(path: str) -> list[str]:
    """Return the folders of a path, and its file name up to the first `-`, `_` or dot."""
    *folders, name = path.split("/")
    return [*folders, re.split(r"[-_.]", name, maxsplit=1)[0]]


def speakers_of(trials: Trials) -> npt.NDArray[np.int64]:
    """Return speaker numbers (R,) of the recordings, from their paths and from target trials.

    If the paths name no speakers, a recording in no target trial is a speaker of its own, and a speaker whose
    recordings are not all connected by target trials counts as several.
    """
    recordings = np.arange(len(trials.paths))
    columns = speaker_path_parts(trials)
    # A session folder may qualify too, so the component with the fewest values is tried first.
    for position in sorted(columns, key=lambda position: len(columns[position])):
        names = [path_parts(path)[-position] for path in trials.paths]
        _, first, codes = np.unique(names, return_index=True, return_inverse=True)
        # The second part of each adds a target trial between a recording and the first one of its name.
        links = (trials.enrol, recordings), (trials.test, first[codes]), (trials.targets, recordings >= 0)
        speakers, is_wrong = speakers_from_trials(len(recordings), *map(np.concatenate, links))
        if not is_wrong.any():
            return speakers
    return speakers_from_trials(len(recordings), trials.enrol, trials.test, trials.targets)[0]


def count_shared(trials: Trials, root: str, others: Trials, other_root: str) -> int:
    """Count the trials whose two recordings are also a trial of `others`, in either order."""

    def pairs(listed: Trials, folder: str) -> list[frozenset[str]]:
        prefix = f"{absolute(folder).rstrip('/')}/"
        paths = [path.removeprefix(prefix) for path in listed.paths]
        return [frozenset((paths[a], paths[b])) for a, b in zip(listed.enrol, listed.test, strict=True)]

    other_pairs = set(pairs(others, other_root))
    return sum(pair in other_pairs for pair in pairs(trials, root))


def _read(root: str, file: str) -> Trials:
    """Read trials; raises ValueError if there is only one kind of trial, or if labels contradict each other.

    Labels may also contradict each other through other recordings.
    """
    trials = read_trials(root, file)
    # If `a b` and `b c` are target trials, `a c` can't be a nontarget trial.
    _, is_wrong = speakers_from_trials(len(trials.paths), trials.enrol, trials.test, trials.targets)
    if is_wrong.any():
        first = " ".join(trials.paths[side[is_wrong.argmax()]] for side in (trials.enrol, trials.test))
        raise ValueError(
            f"{is_wrong.sum()} nontarget trials of {file} compare a recording with itself, or two that "
            "belong to one speaker by target trials, directly or through other recordings "
            f"(line {trials.lines[is_wrong][0]}: {first}); correct the labels"
        )
    if trials.targets.all() or not trials.targets.any():
        kind = "nontarget" if trials.targets.any() else "target"
        raise ValueError(f"{file} has no {kind} trials, and error rates need both kinds; add some")
    return trials
