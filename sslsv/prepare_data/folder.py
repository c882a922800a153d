"""Make lists of any folder of recordings: a train list and, if speakers are known, validation trials.

Writes ROOT/NAME_train_list (`speaker path` lines) and ROOT/NAME_validation_trials (`1|0 enrolment test`),
where NAME is the folder's name.  A list that is replaced is kept with the suffix .old.  The speakers of the
trials are held out: they are not in the train list.
"""

import argparse
import json
import math
import os
import re
import shlex
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import numpy as np

from sslsv.data.audio_files import AUDIO_SUFFIXES, COMPRESSED_SUFFIXES, find_audio_files, unlistable_reason
from sslsv.data.bank import find_noises
from sslsv.data.kaldi import kaldi_folder
from sslsv.data.lists import Manifest, hold_out_speakers, make_trials
from sslsv.data.recordings import Recordings
from sslsv.data.section import NO_SPEECH, NOISE_FOLDER, RIR_FOLDER, NoiseKind
from sslsv.prepare_data.disk import write_list
from sslsv.settings import command_name, parse_yaml

_MIN_UTTERANCES = 512  # with fewer utterances, a recipe's batch is too large
# The path of a recording in VoxCeleb's archives: SPEAKER/VIDEO/NUMBER, at any depth.
VOXCELEB = re.compile(r"(?:^|/)(id[01]\d{4})(/[^/]+/[^/]+)\.(?:wav|flac|m4a|mp3|ogg|opus)$")
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))  # of VoxCeleb1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data folder`."""
    add = parser.add_argument
    add("folder", type=Path, help="folder to list, at any depth; hidden files, noises and rooms are left out")
    add(
        "--speaker-from",
        metavar="LEVEL|parent|none|REGEX",
        help="what names the speaker. LEVEL: 1 for the folders in FOLDER, as in speaker/video/file, 2 for "
        "their subfolders ...; parent: the folder that holds the recording; none: unknown speakers; REGEX: "
        "first group of a search in the path below FOLDER, such as '(id\\d+)' (default: the only level that "
        "differs between recordings; in VoxCeleb's layout the ids, without the test speakers)",
    )
    add("--root", type=Path, help="data.root, where lists are written (default: the parent of FOLDER)")
    held_out = "speakers of the trials (default: a fourth of up to 40, else a twentieth, 10 to 100; 0: none)"
    add("--held-out-speakers", type=int, help=held_out)
    add("--seed", type=int, default=0, help="selects the speakers and trials (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the lists and print what they hold; return the exit status."""
    folder = Path(os.path.abspath(options.folder))
    root = Path(os.path.abspath(options.root)) if options.root else folder.parent
    name = re.sub(r"[^\w.-]+", "_", folder.name)
    files = find_speech(folder)
    if not files and kaldi_folder(str(folder)):
        raise ValueError(f"{folder} is a Kaldi folder, usable as a list: data.train_lists=[{folder}].")
    if not files:
        raise ValueError(f"{folder} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    rule = options.speaker_from
    if rule is None and all(map(VOXCELEB.search, files)):
        print("read as VoxCeleb: the folders named by ids are the speakers")
        rule, files = VOXCELEB.pattern, train_files(files)
        if not files:
            raise ValueError("All are test recordings; --speaker-from '(id\\d+)' lists them all the same.")
    rule = rule or speaker_level(files, folder)
    manifest = manifest_of(files, folder, root, None if rule == "none" else pattern_of(rule))
    names = manifest.speaker_names
    examples = f"{len(names)} speakers ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    print(f"{len(manifest)} recordings of {'unknown speakers' if rule == 'none' else examples}")
    if rule == "none" and options.held_out_speakers:
        raise ValueError("--held-out-speakers needs speakers: choose another --speaker-from than none.")
    num_held_out = 0 if rule == "none" else options.held_out_speakers
    try:
        lists = write_lists(manifest, root, name, num_held_out, options.seed)
    except OSError as error:
        problem = f"no lists can be made in {root} ({error.strerror}): name another folder with --root"
        raise ValueError(f"{problem}; the paths in them are then absolute.") from error
    print(f"train on it: {training_command(root, name, lists)}")
    return 0


def training_command(root: Path, name: str, lists: dict[str, int]) -> str:
    """Return a shell command that trains on the first of `lists` (name -> number of lines)."""
    (train_list, num_utterances), *validation = lists.items()
    changes = {"run.name": name, "data.root": str(root)}
    # A path may look like a number or a comment in yaml.
    overrides = [
        f"{key}={text if parse_yaml(text) == text else json.dumps(text)}" for key, text in changes.items()
    ]
    overrides += [f"data.train_lists=[{train_list}]", "evaluation.held_out_speakers=0"]
    overrides += [f"evaluation.validation={each}" for each, _ in validation] or ["train.patience=null"]
    overrides += ["evaluation.test=[]", *augmentation_overrides(root)]
    if num_utterances < _MIN_UTTERANCES:  # The recipes' batch sizes are for VoxCeleb.
        overrides.append(f"train.batch_size={max(2, 2 ** int(math.log2(num_utterances / 2)))}")
    return f"{command_name('train')} {shlex.join(['configs/simclr.yml', *overrides])}"


def augmentation_overrides(root: Path) -> list[str]:
    """Return an override of data.augment without the missing noises or rirs; [] if none is missing."""
    recordings, all_kinds = Recordings(root), get_args(NoiseKind)
    settings = ["{name: reverb}"] if find_noises(recordings, RIR_FOLDER)[1] else []
    kinds = [kind for kind in all_kinds if find_noises(recordings, f"{NOISE_FOLDER}/{kind}")[1]]
    if settings and len(kinds) == len(all_kinds):
        return []
    settings += [f"{{name: noise, kinds: [{', '.join(kinds)}]}}"] if kinds else []
    return [f"data.augment=[{', '.join(settings)}]"]


def find_speech(folder: Path) -> list[str]:
    """Return the paths of recordings below a folder, without noises and rooms; prints what is left out."""
    files, others = find_audio_files(folder)
    paths = [os.path.relpath(file, folder) for file in files]
    speech = [file for file in paths if NO_SPEECH.isdisjoint(file.split(os.sep))]
    if len(speech) < len(paths):
        folders = " and ".join(sorted(NO_SPEECH.intersection(os.sep.join(paths).split(os.sep))))
        print(f"{len(paths) - len(speech)} noises and rooms below {folders} are left out")
    print(others, end="")
    return speech


def train_files(files: list[str]) -> list[str]:
    """Return the training recordings among VoxCeleb's `files`, each once; prints what is left out.

    Test recordings are those of VoxCeleb1's test speakers, and all below an archive's folder `test`.
    """
    kept: dict[str, str] = {}
    num_test = num_duplicates = 0
    for file in sorted(files, key=lambda file: file.endswith(COMPRESSED_SUFFIXES)):  # slow ones last
        if not (match := VOXCELEB.search(file)):
            continue
        if match[1] in TEST_SPEAKERS or "test" in file[: match.start()].split("/"):
            num_test += 1
        elif kept.setdefault(match[1] + match[2], file) != file:
            num_duplicates += 1
    if num_test:
        print(f"{num_test} recordings of VoxCeleb's test speakers are left out")
    if num_duplicates:
        print(f"{num_duplicates} recordings exist in two formats or folders, and are listed once")
    return list(kept.values())


def one_per_session(manifest: Manifest) -> Manifest:
    """Return one utterance per speaker and folder if half of the speakers or more have several, else all.

    Utterances of one folder, such as a VoxCeleb video, often share room and noise, so trials are too easy.
    """
    folders, speakers = map(os.path.dirname, manifest.paths), manifest.speakers
    names = [f"{folder}\0{speaker}" for folder, speaker in zip(folders, speakers, strict=True)]
    _, rows = np.unique(names, return_index=True)
    has_several = np.bincount(manifest.speakers[rows]) >= 2
    return manifest.of_utterances(rows) if has_several.mean() >= 0.5 else manifest


def speaker_level(files: list[str], folder: Path) -> str:
    """Return the level of folders that names the speakers; raises ValueError if several levels qualify.

    A level qualifies if all files have it and it has two names or more. Levels that group the files in the
    same way count as one.
    """
    folders = [file.split(os.sep)[:-1] for file in files]
    depth = min(map(len, folders))
    names_of = {str(i + 1): [each[i] for each in folders] for i in range(depth)}
    names_of |= {"parent": [each[-1] for each in folders]} if depth else {}
    readings: dict[tuple[int, ...], tuple[str, str]] = {}  # speaker number per file: (rule, text)
    for rule, names in names_of.items():
        numbers: dict[str, int] = {}
        grouping = tuple(numbers.setdefault(name, len(numbers)) for name in names)
        label = "the last folders" if rule == "parent" else f"folders of level {rule}"
        if len(numbers) > 1:
            examples = ", ".join(sorted(numbers)[:3])
            readings.setdefault(grouping, (rule, f"{len(numbers)} speakers, {label} ({examples} ...)"))
    rules, texts = [rule for rule, _ in readings.values()], [each for _, each in readings.values()]
    if len(rules) < 2:
        return rules[0] if rules else "parent"
    raise ValueError(
        f"{folder} can be read in {len(rules)} ways: {', or '.join(texts)}. Sessions taken for speakers "
        f"spoil validation, so say which: --speaker-from {' or '.join(rules)} (or none, or a REGEX)."
    )


def pattern_of(rule: str) -> str:
    """Return the regular expression for a value of --speaker-from; its first group is the speaker."""
    if rule.isdecimal() and int(rule) > 0:
        return rf"^(?:[^/]+/){{{int(rule) - 1}}}([^/]+)/"
    return r"([^/]+)/[^/]+$" if rule == "parent" else rule


def manifest_of(files: list[str], folder: Path, root: Path, regex: str | None) -> Manifest:
    """Return the manifest of `files` below `folder`, with paths relative to `root`, or absolute outside it.

    The first group of `regex` is the speaker; blanks in it become `_`. Without `regex`, each recording is a
    speaker of its own, named by its path (percent-encoded). Raises ValueError if a path can't stand in a list
    or holds no speaker.
    """
    try:
        pattern = re.compile(regex or "()")
    except re.error as error:
        raise ValueError(f"--speaker-from {regex!r} is not a regular expression: {error}.") from error
    if pattern.groups < 1:
        raise ValueError(
            f"--speaker-from {regex!r} is not a level, parent or none, and as a regular expression it has no "
            "group: put brackets around the speaker: '(id\\d+)'."
        )
    prefix = folder.relative_to(root) if folder.is_relative_to(root) else folder
    ids: dict[str, int] = {}
    names: dict[str, str] = {}  # speaker -> name in the path
    paths, speakers = [], []
    for file in files:
        path = os.path.join(prefix, file)
        if reason := unlistable_reason(path):
            raise ValueError(f"{path!r} {reason}, so no list can hold it: rename it.")
        match = pattern.search(file)
        if regex and not (match and match[1]):
            raise ValueError(
                f"{regex!r} finds no speaker in {file}: give each a folder, or choose another --speaker-from."
            )
        name = match[1] if regex and match else quote(path)
        speaker = "_".join(name.split())
        if names.setdefault(speaker, name) != name:
            raise ValueError(f"{names[speaker]!r} and {name!r} would be one speaker, {speaker}: rename one.")
        paths.append(path)
        speakers.append(ids.setdefault(speaker, len(ids)))
    return Manifest(paths=paths, speakers=np.array(speakers, dtype=np.int64), speaker_names=list(ids))


def write_lists(
    manifest: Manifest, root: Path, name: str, num_held_out: int | None, seed: int
) -> dict[str, int]:
    """Write ROOT/NAME_train_list and, for held-out speakers, ROOT/NAME_validation_trials; return lengths.

    `num_held_out` None: a fourth of up to 40 speakers, a twentieth of more (10 to 100), none of too few.
    """
    if num_held_out is None:
        has_pairs = np.count_nonzero(np.bincount(manifest.speakers) >= 2) >= 2 and manifest.num_speakers >= 4
        minimum = max(2, min(10, manifest.num_speakers // 4))  # with fewer speakers, trials choose by chance
        num_held_out = min(100, max(minimum, manifest.num_speakers // 20)) if has_pairs else 0
        if not num_held_out:
            print("no validation trials: too few speakers have two recordings, or there are fewer than 4")
    lists = {}
    if num_held_out:  # drawn first: an error must not leave a train list without trials
        manifest, held_out = hold_out_speakers(manifest, num_held_out, seed)
        trials = make_trials(one_per_session(held_out), seed)
        pairs = zip(trials.targets, trials.enrol, trials.test, strict=True)
        lines = [trial_line(target, trials.paths[i], trials.paths[j]) for target, i, j in pairs]
        lists[f"{name}_validation_trials"] = lines
    names = [manifest.speaker_names[i] for i in manifest.speakers]
    train = [f"{speaker} {path}" for speaker, path in zip(names, manifest.paths, strict=True)]
    lists = {f"{name}_train_list": train, **lists}
    for list_name, lines in lists.items():
        write_list(root / list_name, lines)
    return {each: len(lines) for each, lines in lists.items()}


def trial_line(is_target: bool, enrolment: str, test: str) -> str:
    """Return a line of a trial list, with tabs between the fields if a path holds white space."""
    has_blanks = re.search(r"\s", enrolment + test)
    return ("\t" if has_blanks else " ").join([str(int(is_target)), enrolment, test])
