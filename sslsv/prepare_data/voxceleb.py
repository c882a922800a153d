"""Download VoxCeleb1 (30 GB, WAV), VoxCeleb2's development part (73 GB of AAC), the trial lists; list them.

Archives are read where they lie, in parts or whole.  Speakers' folders (id10001 ...) below --from are used in
place of a download: WAV and FLAC are linked, m4a is converted, and archives at hand fill in the rest.
VoxCeleb2 becomes 16-bit WAV (some 270 GB) or FLAC (some 160 GB) on all CPUs of this machine, or of the Ray
cluster that RAY_ADDRESS names; all of its machines must see FOLDER and the archives under the same paths.

`lists` writes voxceleb1_train_list, voxceleb2_train_list (`speaker path`, without the 40 test speakers) and
validation trials of speakers that are set aside (`1|0 enrol test`); other content is kept as NAME.old.
`trials` writes VoxCeleb1's cleaned test lists as voxceleb1_test_O (and `trials`), _E and _H: E and H hold
speakers of VoxCeleb1's own training list, so evaluate on them what was trained on VoxCeleb2 alone.
"""

import argparse
import os
import re
from pathlib import Path

import numpy as np

from sslsv.data.audio import find_audio_files
from sslsv.data.lists import Manifest, make_trials
from sslsv.prepare_data.archives import ZipEntry, extract, list_zip
from sslsv.prepare_data.convert import Item, add_conversion_arguments, convert
from sslsv.prepare_data.disk import write_list, write_whole
from sslsv.prepare_data.download import add_supply_arguments, is_at_hand, obtain, supply_of
from sslsv.prepare_data.extracted import find_folders, is_complete, is_linked, link_folders, set_complete
from sslsv.prepare_data.folder import split, train_lines, trial_lines

SPEAKERS = {"voxceleb1": r"id1\d{4}", "voxceleb2": r"id0\d{4}"}
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))  # of VoxCeleb1
TRIAL_LISTS = {
    "veri_test2.txt": ("voxceleb1_test_O", "trials"),
    "list_test_all2.txt": ("voxceleb1_test_E",),
    "list_test_hard2.txt": ("voxceleb1_test_H",),
}
_PLACE = re.compile(r"(?:^|/)(id[01]\d{4}/[^/]+/[^/]+)\.(?:wav|flac|m4a)$")


def place_of(name: str) -> str | None:
    """Return SPEAKER/VIDEO/NUMBER, without suffix, of a recording's path (`dev/aac/id00012/...`), or None."""
    found = _PLACE.search(name)
    return found[1] if found else None


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Add what the command `voxceleb1`, `voxceleb2`, `trials` or `lists` takes."""
    if command == "lists":
        parser.add_argument("folder", type=Path, help="data.root, with voxceleb1/ or voxceleb2/ or both")
        add_list_arguments(parser)
        return
    add_supply_arguments(parser)
    if command == "voxceleb2":
        add_conversion_arguments(parser)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide what is in the lists."""
    add = parser.add_argument
    held_out = "speakers set aside for validation, of each corpus (default: a twentieth, 2 to 100; 0: none)"
    add("--held-out-speakers", type=int, metavar="N", help=held_out)
    add("--validation-trials", type=int, default=10_000, metavar="N", help="for each corpus (%(default)s)")
    add("--seed", type=int, default=0, help="decides which speakers and trials (%(default)s)")


def run(options: argparse.Namespace, command: str) -> int:
    """Run one command; returns 1 when some files could not be extracted or converted."""
    steps = {"voxceleb1": _voxceleb1, "voxceleb2": _voxceleb2, "trials": _trials, "lists": _lists}
    return steps[command](options)


def _voxceleb1(options: argparse.Namespace) -> int:
    supply = supply_of(options)
    folder = supply.root / "voxceleb1"
    if is_complete(folder):
        return 0
    speakers = find_folders(supply.given, SPEAKERS["voxceleb1"], (".wav", ".flac"))
    link_folders(speakers, folder)
    if speakers and not is_at_hand("voxceleb1", supply):
        return 0
    archives = obtain("voxceleb1", supply).items()
    states = [extract(paths, _entries(paths, folder, ".wav"), folder, name) for name, paths in archives]
    return set_complete(folder) if all(states) else 1


def _voxceleb2(options: argparse.Namespace) -> int:
    supply = supply_of(options)
    folder, suffix = supply.root / "voxceleb2", f".{options.format}"
    compressed = find_folders(supply.given, SPEAKERS["voxceleb2"], (".m4a",))
    ready = find_folders(supply.given, SPEAKERS["voxceleb2"], (".wav", ".flac"))
    if not (compressed or ready) and is_complete(folder):
        return 0
    link_folders([speaker for speaker in ready if speaker not in compressed], folder)
    items: dict[str, Item] = {}
    for speaker in compressed:
        for path in speaker.rglob("*.m4a"):
            place = f"{speaker.name}/{path.relative_to(speaker).with_suffix('').as_posix()}"
            if not is_linked(folder, place):
                items[place] = (str(path.resolve()), place + suffix)
    archive: list[Path] = []
    if not (compressed or ready) or is_at_hand("voxceleb2", supply):
        (archive,) = obtain("voxceleb2", supply).values()
        items |= {place[: -len(suffix)]: (entry, place) for entry, place in _entries(archive, folder, suffix)}
    failures = convert(archive, list(items.values()), folder, "voxceleb2", options.cpus)
    report = supply.root / "voxceleb2_failures.txt"
    if failures:
        write_whole(report, "".join(f"{place}\t{reason}\n" for place, reason in failures).encode())
        print(
            f"voxceleb2: {len(failures):,} of {len(items):,} recordings could not be converted ("
            f"{': '.join(failures[0])} ...); all are named in {report}. The others are in place, and the "
            "same command tries these again."
        )
        return 1
    report.unlink(missing_ok=True)
    return set_complete(folder, is_whole=bool(archive))


def _entries(paths: list[Path], folder: Path, suffix: str) -> list[tuple[ZipEntry, str]]:
    """Return the recordings of an archive, without those of linked speakers: the user's own are only read."""
    found = list_zip(paths, place_of)
    return [(entry, place + suffix) for entry, place in found if not is_linked(folder, place)]


def _trials(options: argparse.Namespace) -> int:
    supply = supply_of(options)
    if all((supply.root / name).is_file() for names in TRIAL_LISTS.values() for name in names):
        print("trials: the lists are in place.")
        return 0
    for source, (path,) in obtain("trials", supply).items():
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines or [""], start=1):
            if not re.fullmatch(r"[01]\s+\S+\s+\S+\s*", line):
                raise ValueError(
                    f"{path}, line {number} is no `1|0 enrol test`: {line[:80]!r}. Remove the file, and give "
                    "its right address by --sources or the file itself by --from."
                )
        for name in TRIAL_LISTS[source]:
            print(f"{write_list(supply.root / name, lines)} ({len(lines):,} trials).")
    return 0


def _lists(options: argparse.Namespace) -> int:
    if options.validation_trials < 2:
        raise ValueError(
            f"--validation-trials is {options.validation_trials}; it must be 2 or more (no trials at all: "
            "--held-out-speakers 0)."
        )
    corpora = [corpus for corpus in SPEAKERS if (options.folder / corpus).is_dir()]
    if not corpora:
        message = "has neither voxceleb1/ nor voxceleb2/; for other corpora: prepare_data folder."
        raise ValueError(f"{options.folder} {message}")
    for corpus in corpora:
        utterances = find_utterances(options.folder, corpus)
        if len(utterances):
            _write_lists(options, corpus, utterances)
        else:
            print(f"{options.folder / corpus} has no training recordings yet: no list of it is written.")
    return 0


def find_utterances(root: Path, corpus: str) -> Manifest:
    """Return the training utterances of a corpus, sorted by path; one in two formats or places is one.

    Speakers are the folders named by an id (id10001), at whatever depth the archives put them.
    """
    paths: dict[str, str] = {}
    for path in find_audio_files(root / corpus):
        place = place_of(path)
        if place and place[:7] not in TEST_SPEAKERS:
            paths.setdefault(place, os.path.relpath(path, root))
    names, speakers = np.unique([place[:7] for place in paths], return_inverse=True)
    return Manifest(paths=list(paths.values()), speakers=speakers, speaker_names=names.tolist())


def _write_lists(options: argparse.Namespace, corpus: str, utterances: Manifest) -> None:
    training, held_out = split(utterances, options.held_out_speakers, options.seed)
    lists = {f"{corpus}_train_list": train_lines(training)}
    if held_out is not None:  # drawn before anything is written: no train list without trials
        max_targets = options.validation_trials // 2
        trials = make_trials(_one_of_a_video(held_out), options.seed, max_targets=max_targets)
        lists[f"{corpus}_validation_trials"] = trial_lines(trials)
    for name, lines in lists.items():
        print(f"{write_list(options.folder / name, lines)} ({len(lines):,} lines).")


def _one_of_a_video(manifest: Manifest) -> Manifest:
    """Return an utterance of each video: two of one share room and noise, too easy for a target trial."""
    _, rows = np.unique([os.path.dirname(path) for path in manifest.paths], return_index=True)
    speakers = manifest.speakers[rows]
    if np.bincount(speakers).max() < 2:
        return manifest
    paths = [manifest.paths[i] for i in rows]
    return Manifest(paths=paths, speakers=speakers, speaker_names=manifest.speaker_names)
