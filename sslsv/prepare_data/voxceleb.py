"""Bring VoxCeleb1, VoxCeleb2 and the trial lists below data.root, and list what is there; see all.py."""

import argparse
import functools
import os
import re
from pathlib import Path

import numpy as np

from sslsv.data.audio import COMPRESSED_SUFFIXES, find_audio_files
from sslsv.data.lists import Manifest, trial_rows
from sslsv.prepare_data.archives import extract, open_zip
from sslsv.prepare_data.convert import convert
from sslsv.prepare_data.disk import write_list
from sslsv.prepare_data.download import Archives, obtain
from sslsv.prepare_data.folder import trial_line, write_lists

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


def extract_voxceleb1(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the recordings of VoxCeleb1; returns whether all are there."""
    place_of = functools.partial(place_with, suffix=".wav")
    return all([extract(paths, place_of, folder, name) for name, paths in archives.items()])


def convert_voxceleb2(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the recordings of VoxCeleb2 at 16 kHz; returns whether all are there."""
    (paths,) = archives.values()
    with open_zip(paths, functools.partial(place_with, suffix=f".{options.format}")) as (archive, items):
        return convert(items, folder, "voxceleb2", options.cpus, archive)


def prepare_trials(options: argparse.Namespace) -> int:
    """Write VoxCeleb1's test lists; returns 0."""
    for source, (path,) in obtain("trials", options).items():
        rows = trial_rows("/", os.path.abspath(path))
        lines = [trial_line(is_target, enrolment, test) for _, is_target, enrolment, test in rows]
        for name in TRIAL_LISTS[source]:
            write_list(options.folder / name, lines)
    return 0


def prepare_lists(options: argparse.Namespace) -> int:
    """Write train lists and validation trials of the corpora that are there; returns 0."""
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
    found = find_audio_files(root / corpus) if (root / corpus).is_dir() else []
    for path in sorted(found, key=lambda path: path.endswith(COMPRESSED_SUFFIXES)):  # these are slow to read
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
