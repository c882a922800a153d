"""Lists of any folder of recordings: a train list and, where speakers are known, validation trials.

Writes ROOT/NAME_train_list (`speaker path` lines) and ROOT/NAME_validation_trials (`1|0 enrolment test`),
NAME being the folder's; other content is kept as NAME.old.  The speakers of the trials are held out: they are
not in the train list.
"""

import argparse
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sslsv.data.audio import AUDIO_SUFFIXES, find_audio_files, left_out
from sslsv.data.lists import Manifest, hold_out_speakers, make_trials, why_unlistable
from sslsv.data.section import BANK_FOLDERS, NOISE_FOLDER, RIR_FOLDER
from sslsv.prepare_data.disk import write_list

_PATTERNS = {"parent": r"([^/]+)/[^/]+$", "top": r"^([^/]+)/"}  # of the speaker, in a path below the folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data folder` takes."""
    add = parser.add_argument
    add("folder", type=Path, help="all recordings below it are listed; no hidden ones, noises or rooms")
    add(
        "--speaker-from",
        metavar="parent|top|none|REGEX",
        help="parent: the folder that a recording lies in; top: the first folder below FOLDER, as in "
        "speaker/video/file; none: unknown; else a regular expression that is searched in the path below "
        "FOLDER, whose first group is the speaker: '(id\\d+)' (default: parent, where top means the same)",
    )
    add("--root", type=Path, help="data.root, which gets the lists (default: the folder above)")
    held_out = "speakers of the trials (default: a twentieth, 2 to 100; 0: no trials, all speakers train)"
    add("--held-out-speakers", type=int, help=held_out)
    add("--seed", type=int, default=0, help="decides which speakers and trials (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the lists and say what is in them; returns the exit status."""
    folder = Path(os.path.abspath(options.folder))
    root = Path(os.path.abspath(options.root)) if options.root else folder.parent
    name = re.sub(r"[^\w.-]+", "_", folder.name)
    files = find_speech(folder)
    rule = options.speaker_from or one_reading(files, folder)
    manifest = list_files(files, folder, root, None if rule == "none" else _PATTERNS.get(rule, rule))
    names = manifest.speaker_names
    examples = f"{len(names)} speakers ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    print(f"{len(manifest)} recordings of {'unknown speakers' if rule == 'none' else examples}")
    if rule == "none" and options.held_out_speakers:
        raise ValueError("--held-out-speakers needs speakers: choose another --speaker-from than none.")
    num_held_out = 0 if rule == "none" else options.held_out_speakers
    lists = write_lists(manifest, root, name, num_held_out, options.seed)
    overrides = [f"run.name={name}", f"data.root={root}", f"data.train_lists=[{lists[0]}]"]
    overrides += ["evaluation.held_out_speakers=0", *(f"evaluation.validation={each}" for each in lists[1:])]
    command = shlex.join([*overrides, "evaluation.test=[]", *augmentation_overrides(root)])
    print(f"train on it: python -m sslsv.train CONFIG {command}")
    return 0


def augmentation_overrides(root: Path) -> list[str]:
    """Return the override without which a config that augments would look in vain for noises or rirs."""
    folders = {"reverb": RIR_FOLDER, "noise": NOISE_FOLDER}
    there = [f"{{name: {name}}}" for name, folder in folders.items() if (root / folder).is_dir()]
    return [] if len(there) == 2 else [f"data.augment=[{', '.join(there)}]"]


def find_speech(folder: Path) -> list[str]:
    """Return the recordings' paths below a folder, without noises and rooms; says what is left out."""
    found = [os.path.relpath(file, folder) for file in find_audio_files(folder)]
    kept = [file for file in found if not set(BANK_FOLDERS).intersection(file.split(os.sep))]
    if len(kept) < len(found):
        print(f"{len(found) - len(kept)} noises and rooms below {' and '.join(BANK_FOLDERS)} are left out")
    print(left_out(folder), end="")
    if not kept:
        raise ValueError(f"{folder} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    return kept


def one_reading(files: list[str], folder: Path) -> str:
    """Return `parent` where it means the same speakers as `top`; else ValueError shows both readings."""
    folders = [file.split(os.sep)[:-1] for file in files]
    tops, parents = ({"/".join(each[:end]) for each in folders} for end in (1, None))
    if len(tops) == len(parents) or len(tops - {""}) <= 1:
        return "parent"
    first, second = (f"({', '.join(sorted(each)[:3])} ...)" for each in (tops, parents))
    raise ValueError(
        f"{folder} can be read in two ways: {len(tops)} speakers, the first folders {first}, or "
        f"{len(parents)} speakers, the folders that the files lie in {second}. Sessions taken for speakers "
        "spoil validation, so say which: --speaker-from top or parent (or none, or a regular expression)."
    )


def list_files(files: list[str], folder: Path, root: Path, regex: str | None) -> Manifest:
    """Return recordings, given by paths below `folder`, by paths relative to `root`, or absolute outside.

    The first group of `regex` is the speaker; a blank in it becomes `_`.  Without one each recording is a
    speaker of its own, named by its path (percent-encoded). Raises ValueError when a path can't stand in a
    list or holds no speaker.
    """
    try:
        pattern = re.compile(regex or "()")
    except re.error as error:
        raise ValueError(f"--speaker-from {regex!r} is no regular expression: {error}.") from error
    if pattern.groups < 1:
        raise ValueError(
            f"--speaker-from {regex!r} is not parent, top or none, and as a regular expression it has no "
            "group: put brackets around the speaker: '(id\\d+)'."
        )
    prefix = folder.relative_to(root) if folder.is_relative_to(root) else folder
    ids: dict[str, int] = {}
    paths, speakers = [], []
    for file in files:
        path = os.path.join(prefix, file)
        if why := why_unlistable(path):
            raise ValueError(f"{path!r} {why}, so no list can hold it: rename it.")
        match = pattern.search(file)
        if regex and not (match and match[1]):
            raise ValueError(
                f"{regex!r} finds no speaker in {file}: give each a folder, or choose another --speaker-from."
            )
        speaker = match[1] if regex and match else quote(os.fsencode(path))
        paths.append(path)
        speakers.append(ids.setdefault("_".join(speaker.split()), len(ids)))
    return Manifest(paths=paths, speakers=np.array(speakers, dtype=np.int64), speaker_names=list(ids))


def write_lists(
    manifest: Manifest,
    root: Path,
    name: str,
    num_held_out: int | None,
    seed: int,
    choose: Callable[[Manifest], Manifest] = lambda held_out: held_out,
) -> list[str]:
    """Write ROOT/NAME_train_list and, of held-out speakers, ROOT/NAME_validation_trials; returns their names.

    `num_held_out` None: a twentieth of the speakers, 2 to 100; 0 where that leaves too few. `choose` picks
    the utterances of the held-out speakers that trials are drawn from.
    """
    if num_held_out is None:
        has_pairs = np.count_nonzero(np.bincount(manifest.speakers) >= 2) >= 2 and manifest.num_speakers >= 4
        num_held_out = min(100, max(2, manifest.num_speakers // 20)) if has_pairs else 0
        if not num_held_out:
            print("no validation trials: too few speakers have two recordings")
    lists = {}
    if num_held_out:  # drawn before anything is written: no train list without trials
        manifest, held_out = hold_out_speakers(manifest, num_held_out, seed)
        trials = make_trials(choose(held_out), seed)
        pairs = zip(trials.targets, trials.enrol, trials.test, strict=True)
        lines = [trial_line(target, trials.paths[i], trials.paths[j]) for target, i, j in pairs]
        lists[f"{name}_validation_trials"] = lines
    names = [manifest.speaker_names[i] for i in manifest.speakers]
    train = [f"{speaker} {path}" for speaker, path in zip(names, manifest.paths, strict=True)]
    lists = {f"{name}_train_list": train, **lists}
    for each, lines in lists.items():
        write_list(root / each, lines)
    return list(lists)


def trial_line(is_target: bool, enrolment: str, test: str) -> str:
    """Return a line of a trial list; tabs stand between the fields where paths hold blanks."""
    return ("\t" if " " in enrolment + test else " ").join([str(int(is_target)), enrolment, test])
