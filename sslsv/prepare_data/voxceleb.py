"""Download VoxCeleb1 (30 GB, WAV), VoxCeleb2's development part (73 GB of AAC), the trial lists; list them.

Archives are read where they lie, in parts or whole.  VoxCeleb2 becomes 16-bit WAV (some 270 GB) or FLAC
(some 160 GB) on all CPUs of this machine.  Have you extracted them already?  Link the folder that holds the
speakers to FOLDER/voxceleb1, or link the speakers' folders into it; links are only read.  An extracted
VoxCeleb2 of m4a files: `prepare_data convert /my/aac --out FOLDER/voxceleb2`, then `prepare_data lists
FOLDER`.

`lists` writes voxceleb1_train_list, voxceleb2_train_list (`speaker path`, without the 40 test speakers) and
validation trials of speakers that are set aside (`1|0 enrol test`); other content is kept as NAME.old.
`trials` writes VoxCeleb1's cleaned test lists as voxceleb1_test_O (and `trials`), _E and _H: E and H hold
speakers of VoxCeleb1's own training list, so evaluate on them what was trained on VoxCeleb2 alone.
"""

import argparse
import functools
import os
import re
from pathlib import Path

import numpy as np

from sslsv.data.audio import find_audio_files
from sslsv.data.lists import Manifest
from sslsv.prepare_data.archives import extract, open_zip
from sslsv.prepare_data.convert import add_conversion_arguments, convert
from sslsv.prepare_data.disk import write_list
from sslsv.prepare_data.download import add_source_arguments, install, obtain
from sslsv.prepare_data.folder import write_lists

TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))  # of VoxCeleb1
TRIAL_LISTS = {
    "veri_test2.txt": ("voxceleb1_test_O", "trials"),
    "list_test_all2.txt": ("voxceleb1_test_E",),
    "list_test_hard2.txt": ("voxceleb1_test_H",),
}
_PLACE = re.compile(r"(?:^|/)(id[01]\d{4}/[^/]+/[^/]+)\.(?:wav|flac|m4a)$")


def place_with(name: str, suffix: str = "") -> str | None:
    """Return SPEAKER/VIDEO/NUMBER and the suffix for a recording's path (`dev/aac/id00012/...`), or None."""
    found = _PLACE.search(name)
    return found[1] + suffix if found else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command `voxceleb1`, `voxceleb2`, `trials` or `lists` takes."""
    command = parser.get_default("command")
    if command == "lists":
        parser.add_argument("folder", type=Path, help="data.root, with voxceleb1/ or voxceleb2/ or both")
        add_list_arguments(parser)
    else:
        add_source_arguments(parser)
    if command == "voxceleb2":
        add_conversion_arguments(parser)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide what is in the lists."""
    add = parser.add_argument
    held_out = "speakers set aside for validation, of each corpus (default: a twentieth, 2 to 100; 0: none)"
    add("--held-out-speakers", type=int, metavar="N", help=held_out)
    add("--seed", type=int, default=0, help="decides which speakers and trials (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run one command; returns 1 when some files could not be extracted or converted."""
    match options.command:
        case "voxceleb1":
            return install("voxceleb1", "voxceleb1", options, _extract_all)
        case "voxceleb2":
            unpack = functools.partial(_convert_all, format_=options.format, cpus=options.cpus)
            return install("voxceleb2", "voxceleb2", options, unpack)
        case "trials":
            return _trials(options)
    return _lists(options)


def _extract_all(archives: dict[str, list[Path]], folder: Path) -> bool:
    place_of = functools.partial(place_with, suffix=".wav")
    return all([extract(paths, place_of, folder, name) for name, paths in archives.items()])


def _convert_all(archives: dict[str, list[Path]], folder: Path, format_: str, cpus: int | None) -> bool:
    (paths,) = archives.values()
    with open_zip(paths, functools.partial(place_with, suffix=f".{format_}")) as (archive, items):
        return convert(items, folder, "voxceleb2", cpus, archive)


def _trials(options: argparse.Namespace) -> int:
    if all((options.folder / name).is_file() for names in TRIAL_LISTS.values() for name in names):
        print("trials: the lists are in place.")
        return 0
    for source, (path,) in obtain("trials", options).items():
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines or [""], start=1):
            if not re.fullmatch(r"[01]\s+\S+\s+\S+\s*", line):
                raise ValueError(
                    f"{path}, line {number} is no `1|0 enrol test`: {line[:80]!r}. Remove the file, and give "
                    "its right address by --sources or the file itself by --from."
                )
        for name in TRIAL_LISTS[source]:
            write_list(options.folder / name, lines)
    return 0


def _lists(options: argparse.Namespace) -> int:
    corpora = [corpus for corpus in ("voxceleb1", "voxceleb2") if (options.folder / corpus).is_dir()]
    if not corpora:
        raise ValueError(
            f"{options.folder} has neither voxceleb1/ nor voxceleb2/; for other corpora: prepare_data folder."
        )
    for corpus in corpora:
        utterances = find_utterances(options.folder, corpus)
        if not len(utterances):
            print(f"{options.folder / corpus} has no training recordings yet: no list of it is written.")
            continue
        held_out, seed = options.held_out_speakers, options.seed
        write_lists(utterances, options.folder, corpus, held_out, seed, choose=_one_of_a_video)
    return 0


def find_utterances(root: Path, corpus: str) -> Manifest:
    """Return the training utterances of a corpus, sorted by path; one in two formats or places is one.

    Speakers are the folders named by an id (id10001), at whatever depth the archives put them.
    """
    paths: dict[str, str] = {}
    for path in find_audio_files(root / corpus) if (root / corpus).is_dir() else []:
        place = place_with(path)
        if place and place[:7] not in TEST_SPEAKERS:
            paths.setdefault(place, os.path.relpath(path, root))
    names, speakers = np.unique([place[:7] for place in paths], return_inverse=True)
    return Manifest(paths=list(paths.values()), speakers=speakers, speaker_names=names.tolist())


def _one_of_a_video(manifest: Manifest) -> Manifest:
    """Return an utterance of each video: two of one share room and noise, too easy for a target trial."""
    _, rows = np.unique([os.path.dirname(path) for path in manifest.paths], return_index=True)
    speakers = manifest.speakers[rows]
    if np.bincount(speakers).max() < 2:
        return manifest
    paths = [manifest.paths[i] for i in rows]
    return Manifest(paths=paths, speakers=speakers, speaker_names=manifest.speaker_names)
