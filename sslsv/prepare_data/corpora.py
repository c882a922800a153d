"""Write VoxCeleb1, VoxCeleb2, their trial lists, MUSAN and the simulated rooms below data.root; see all.py.

MUSAN is cut into pieces of 8 s without losing a sample. A file shorter than 8 s is one piece. The rest at the
end of a longer file is a piece of its own. A rest shorter than 1 s extends the piece before it instead.
"""

import argparse
import functools
import io
import itertools
import os
from pathlib import Path

import soundfile

from sslsv.data.audio_files import find_audio_files
from sslsv.data.list_forms import IS_TARGET, TRIALS, Rows
from sslsv.prepare_data.archives import extract, open_zip, read_tar
from sslsv.prepare_data.convert import convert
from sslsv.prepare_data.disk import progress, write_audio, write_list
from sslsv.prepare_data.download import Archives, obtain
from sslsv.prepare_data.folder import VOXCELEB, find_speech, manifest_of, train_files, trial_line, write_lists

TRIAL_LISTS = {
    "veri_test2.txt": ("voxceleb1_test_O", "trials"),
    "list_test_all2.txt": ("voxceleb1_test_E",),
    "list_test_hard2.txt": ("voxceleb1_test_H",),
}
CATEGORIES = ("music", "noise", "speech")
PIECE_SECONDS = 8
MIN_LAST_SECONDS = 1

_NUM_FILES = 2016  # number of files in MUSAN, to estimate the time left


def voxceleb_path(name: str, suffix: str = "") -> str | None:
    """Return SPEAKER/VIDEO/NUMBER + `suffix` for the path of a recording (`dev/aac/id00012/...`), or None."""
    match = VOXCELEB.search(name)
    return match[1] + match[2] + suffix if match else None


def extract_voxceleb1(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the recordings of VoxCeleb1; return whether all exist now."""
    path_of = functools.partial(voxceleb_path, suffix=".wav")
    return all([extract(paths, path_of, folder, name) for name, paths in archives.items()])


def convert_voxceleb2(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the recordings of VoxCeleb2 at 16 kHz; return whether all exist now."""
    (paths,) = archives.values()
    with open_zip(paths, functools.partial(voxceleb_path, suffix=f".{options.format}")) as (archive, items):
        return convert(items, folder, "voxceleb2", options.cpus, archive)


def prepare_trials(options: argparse.Namespace) -> int:
    """Write VoxCeleb1's test lists; return 0."""
    path_of = voxceleb1_paths(options.folder)
    for source, (path,) in obtain("trials", options).items():
        rows = Rows("/", os.path.abspath(path), TRIALS)
        trials = [(target, path_of.get(a, a), path_of.get(b, b)) for _, target, a, b in rows]
        lines = [trial_line(IS_TARGET[target], *pair) for target, *pair in trials]
        for name in TRIAL_LISTS[source]:
            write_list(options.folder / name, lines)
    return 0


def voxceleb1_paths(root: Path) -> dict[str, str]:
    """Return {SPEAKER/VIDEO/NUMBER.wav: path below `root`}, or {} if the listed paths need no change.

    Paths change if the recordings have several parent folders, such as the archives' dev/wav/ and test/wav/,
    or another format. A single parent folder is found when a list is read (`lists.path_resolver`).
    """
    folder = root / "voxceleb1"
    files = [os.path.relpath(file, root) for file in find_audio_files(folder)[0]] if folder.is_dir() else []
    recordings = [(file, name) for file in files if (name := voxceleb_path(file))]
    prefixes = {file.partition(name)[0] for file, name in recordings}
    has_other_paths = len(prefixes) > 1 or not all(file.endswith(".wav") for file, _ in recordings)
    return {f"{name}.wav": file for file, name in recordings} if has_other_paths else {}


def prepare_lists(options: argparse.Namespace) -> int:
    """Write train lists and validation trials of the corpora that exist; return 0."""
    root = options.folder
    folders = [root / corpus for corpus in ("voxceleb1", "voxceleb2") if (root / corpus).is_dir()]
    if not folders:
        raise ValueError(f"{root} has neither voxceleb1/ nor voxceleb2/; for others: prepare_data folder.")
    for folder in folders:
        if files := train_files(find_speech(folder)):
            # Speakers are the folders named by an id (id10001), at any depth.
            utterances = manifest_of(files, folder, root, VOXCELEB.pattern)
            write_lists(utterances, root, folder.name, options.held_out_speakers, options.seed)
        else:
            print(f"{folder} has no training recordings yet: no list of it is written.")
    return 0


def cut_musan(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the missing pieces of MUSAN's files; return True."""
    (paths,) = archives.values()
    num_read = 0
    with progress("cut musan", _NUM_FILES) as bar:
        for name, content in read_tar(paths, ".wav"):
            if path := musan_path(name):
                cut(content, folder / path)
                num_read += 1
                bar.update()
    if not num_read:
        raise ValueError(f"{paths[0]} holds no wav file of music, noise or speech: it is not MUSAN.")
    return True


def musan_path(name: str) -> str | None:
    """Return the path below musan_split/ for a file of MUSAN (`musan/noise/fs/x.wav`), or None."""
    _, _, path = f"/{name}".rpartition("/musan/")
    is_wav = path.endswith(".wav") and not path.rpartition("/")[2].startswith(".")
    return path if is_wav and path.partition("/")[0] in CATEGORIES else None


def piece_bounds(num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """Return (first, last + 1) sample of each piece; together the pieces cover all samples once."""
    starts = list(range(0, num_samples, PIECE_SECONDS * sample_rate))
    if len(starts) > 1 and num_samples - starts[-1] < MIN_LAST_SECONDS * sample_rate:
        starts.pop()
    return [*itertools.pairwise([*starts, num_samples])]


def cut(content: bytes, target: Path) -> None:
    """Write the pieces of a file: NAME_00000.wav, NAME_00008.wav ..., named by their first second."""
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        for start, end in piece_bounds(file.frames, file.samplerate):
            piece = target.with_name(f"{target.stem}_{start // file.samplerate:05d}.wav")
            if piece.exists():
                continue
            file.seek(start)
            samples = file.read(end - start, dtype="int16" if file.subtype == "PCM_16" else "float32")
            write_audio(piece, samples, file.samplerate, file.subtype)


def extract_rirs(archives: Archives, folder: Path, options: argparse.Namespace) -> bool:
    """Write the simulated impulse responses; return whether all exist now."""
    (paths,) = archives.values()
    return extract(paths, _rir_place, folder, "rirs")


def _rir_place(name: str) -> str | None:
    # The archive's real rooms and point noises are left out.
    _, separator, path = name.partition("simulated_rirs/")
    return path if separator and path.endswith(".wav") else None
