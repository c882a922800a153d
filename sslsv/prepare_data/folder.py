"""Lists of any folder of recordings: a train list and, where speakers are known, validation trials.

Writes ROOT/NAME_train_list (`speaker path` lines) and ROOT/NAME_validation_trials (`1|0 enrolment test`),
NAME being the folder's.  The speakers of the trials are held out: they are not in the train list.
"""

import argparse
import os
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sslsv.data.audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES, find_audio_files
from sslsv.data.lists import Manifest, Trials, hold_out_speakers, make_trials, why_unlistable
from sslsv.data.section import BANK_FOLDERS, NOISE_FOLDER, RIR_FOLDER
from sslsv.prepare_data.disk import write_lists
from sslsv.prepare_data.speaker_rules import SpeakerOf, speaker_rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data folder` takes."""
    parser.add_argument("folder", help="all recordings below it are listed; no hidden ones, noises or rooms")
    parser.add_argument(
        "--speaker-from",
        choices=["parent", "top", "regex", "none"],
        default="parent",
        help="parent (default): the folder that a recording lies in; top: the first folder below FOLDER, as "
        "in speaker/video/file; regex: see --regex; none: unknown, every recording is its own speaker",
    )
    parser.add_argument(
        "--regex", help="searched in the path below FOLDER; its first group is the speaker: '(id\\d+)'"
    )
    parser.add_argument("--root", help="data.root, which paths are relative to (default: the folder above)")
    parser.add_argument("--out", help="the train list (default: ROOT/NAME_train_list)")
    parser.add_argument("--trials", help="the validation trials (default: ROOT/NAME_validation_trials)")
    parser.add_argument(
        "--held-out-speakers",
        type=int,
        help="speakers of the trials (default: a twentieth, 2 to 100; 0: no trials, all speakers train)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of held-out speakers and trials (%(default)s)")
    parser.add_argument(
        "--force", action="store_true", help="replace lists that are there with other content"
    )


def run(options: argparse.Namespace) -> int:
    """Write the lists and say what is in them; returns the exit status."""
    folder = Path(options.folder)
    root = Path(options.root) if options.root else Path(os.path.abspath(folder)).parent
    name = os.path.basename(os.path.abspath(folder))
    train_list = Path(options.out) if options.out else root / f"{name}_train_list"
    trial_list = Path(options.trials) if options.trials else root / f"{name}_validation_trials"
    manifest = list_folder(folder, root, speaker_rule(options.speaker_from, options.regex))
    is_labelled = options.speaker_from != "none"
    print(f"{len(manifest)} recordings of {describe_speakers(manifest, is_labelled)}")
    manifest, trials = split(manifest, options.held_out_speakers, is_labelled, options.seed)
    lists = {train_list: train_lines(manifest)}
    if trials is not None:
        lists[trial_list] = trial_lines(trials)
    write_lists(lists, is_forced=options.force)
    print(f"{train_list}: {len(manifest)} recordings to train on")
    validation = ""
    if trials is not None:
        print(f"{trial_list}: {len(trials)} trials of held-out speakers")
        validation = f" evaluation.validation={shown(trial_list, root)}"
    print(
        f"train on it: python -m sslsv.train CONFIG run.name={name} data.root={root} "
        f"data.train_lists=[{shown(train_list, root)}] evaluation.held_out_speakers=0{validation} "
        f"evaluation.test=[]{augmentation_hint(root)}"
    )
    return 0


def augmentation_hint(root: Path) -> str:
    """The override without which a config that augments would look in vain for noises or rooms in `root`."""
    there = [
        f"{{name: {name}}}"
        for name, folder in (("reverb", RIR_FOLDER), ("noise", NOISE_FOLDER))
        if (root / folder).is_dir()
    ]
    return "" if len(there) == 2 else f" 'data.augment=[{', '.join(there)}]'"


def split(
    manifest: Manifest, num_held_out: int | None, is_labelled: bool, seed: int
) -> tuple[Manifest, Trials | None]:
    """Return what is trained on and, where speakers are known and held out, trials of those.

    `num_held_out` None: a twentieth of the speakers, 2 to 100; 0 where that leaves too few.
    """
    if num_held_out and not is_labelled:
        raise ValueError("--held-out-speakers needs speakers: choose another --speaker-from than none.")
    if num_held_out is None and is_labelled:
        num_held_out = default_held_out(manifest)
        if not num_held_out:
            print("no validation trials: too few speakers have two recordings")
    if not num_held_out:
        return manifest, None
    if not 0 <= num_held_out < manifest.num_speakers:
        raise ValueError(
            f"--held-out-speakers is {num_held_out}, but there are {manifest.num_speakers} speakers: hold "
            f"out at most {manifest.num_speakers - 1}, so that some are left to train on."
        )
    training, held_out = hold_out_speakers(manifest, num_held_out, seed)
    return training, make_trials(without_blanks(held_out), seed)


def list_folder(folder: Path, root: Path, speaker_of: SpeakerOf | None) -> Manifest:
    """Return all recordings below a folder in the order of their paths, which are relative to `root`.

    Paths of recordings that do not lie below `root` are absolute. A blank in a speaker's name becomes `_`.
    Without `speaker_of` each recording is a speaker of its own, named by its path (percent-encoded).
    Raises ValueError when there is none, when a path can't stand in a list and when names of speakers clash.
    """
    found = find_speech(folder)
    if not found:
        raise ValueError(f"{folder} holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    below = os.path.relpath(os.path.abspath(folder), os.path.abspath(root))
    prefix = os.path.abspath(folder) if below.split(os.sep)[0] == os.pardir else below
    ids: dict[str, int] = {}
    origins: dict[str, str] = {}  # name in the list -> name as found
    paths, speakers = [], []
    for file in found:
        inner = (
            os.path.relpath(file, folder) if "//" in file else file[len(os.fspath(folder)) :].lstrip(os.sep)
        )
        path = os.path.normpath(os.path.join(prefix, inner))
        if why := why_unlistable(path):
            raise ValueError(f"{path!r} {why}, so no list can hold it: rename it.")
        found_name = speaker_of(inner) if speaker_of else quote(os.fsencode(path))
        name = "_".join(found_name.split())
        if origins.setdefault(name, found_name) != found_name:
            raise ValueError(
                f"The speakers {origins[name]!r} and {found_name!r} would both be {name!r} in the list, "
                "where blanks separate fields: rename one."
            )
        paths.append(path)
        speakers.append(ids.setdefault(name, len(ids)))
    return Manifest(paths=paths, speakers=np.array(speakers, dtype=np.int64), speaker_names=list(ids))


def find_speech(folder: Path) -> list[str]:
    """Return the recordings below a folder, without banks of noises and rooms; says what is left out."""
    found = find_audio_files(folder)
    depth = len(os.path.join(folder, ""))
    kept = [file for file in found if not set(BANK_FOLDERS).intersection(file[depth:].split(os.sep))]
    if len(kept) < len(found):
        print(f"{len(found) - len(kept)} noises and rooms below {' and '.join(BANK_FOLDERS)} are left out")
    if unread := find_audio_files(folder, UNREAD_SUFFIXES):
        kinds = ", ".join(sorted({os.path.splitext(file)[1].lower() for file in unread}))
        print(
            f"{len(unread)} files are left out, because training does not read their format ({kinds}): "
            f"convert them to WAV or FLAC first; the first: {unread[0]}"
        )
    return kept


def default_held_out(manifest: Manifest) -> int:
    """Return how many speakers validate: a twentieth, 2 to 100; 0 where that leaves too few."""
    able = int(np.count_nonzero(np.bincount(manifest.speakers) >= 2))
    return min(100, max(2, manifest.num_speakers // 20)) if able >= 2 and manifest.num_speakers >= 4 else 0


def without_blanks(held_out: Manifest) -> Manifest:
    """Return the recordings that trials can name: the two paths of a line are told apart by a blank."""
    kept = [i for i, path in enumerate(held_out.paths) if not re.search(r"\s", path)]
    if len(kept) < len(held_out):
        example = next(path for path in held_out.paths if re.search(r"\s", path))
        print(
            f"{len(held_out) - len(kept)} held-out recordings have a blank in their path, which a list of "
            f"trials can't hold, and are left out; the first: {example}"
        )
    speakers = held_out.speakers[kept]
    ids, numbers = np.unique(speakers, return_inverse=True)
    return Manifest(
        paths=[held_out.paths[i] for i in kept],
        speakers=numbers.astype(np.int64),
        speaker_names=[held_out.speaker_names[i] for i in ids],
    )


def train_lines(manifest: Manifest) -> list[str]:
    """Return the lines of a train list."""
    return [
        f"{manifest.speaker_names[speaker]} {path}"
        for speaker, path in zip(manifest.speakers.tolist(), manifest.paths, strict=True)
    ]


def trial_lines(trials: Trials) -> list[str]:
    """Return the lines of a trial list."""
    return [
        f"{int(is_target)} {trials.paths[enrol]} {trials.paths[test]}"
        for is_target, enrol, test in zip(trials.targets, trials.enrol, trials.test, strict=True)
    ]


def describe_speakers(manifest: Manifest, is_labelled: bool) -> str:
    """Return how many speakers there are and the first names, by which a wrong --speaker-from shows."""
    if not is_labelled:
        return "unknown speakers"
    names = manifest.speaker_names
    shown_names = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} speakers ({shown_names})"


def shown(file: Path, root: Path) -> str:
    """Return a list's name as the settings want it: relative to data.root if it lies there."""
    place = os.path.relpath(file, root)
    return os.path.abspath(file) if place.startswith(os.pardir) else place
