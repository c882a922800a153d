"""Copy a folder of recordings to 16 kHz, mono, 16 bits, so that training need not convert them every time.

The copy has the same folders and names with the suffix of its format, and the lists of the folder, rewritten.
Interrupted, the same command goes on; a file is made anew when its original has changed.

Exit status: 0 all is copied, 1 some files could not be read (the lists leave them out), 2 nothing was done.
"""

import argparse
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sslsv.data.audio import SAMPLE_RATE, AudioError, find_audio_files, read_whole, to_int16
from sslsv.data.lists import find_lists, is_trial_list, train_rows, trial_rows
from sslsv.data.section import BANK_FOLDERS
from sslsv.prepare_data.disk import write_lists, write_whole
from sslsv.prepare_data.parallel import map_files
from sslsv.prepare_data.progress_line import ProgressLine
from sslsv.prepare_data.trimming import trim_silence

_MARKER = "resampled.json"
_SHOWN = 10  # failures


@dataclass(frozen=True)
class Job:
    """One file to copy."""

    source: str
    target: str
    is_trimmed: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data resample` takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", help="what is copied; it stays as it is")
    parser.add_argument("--out", required=True, help="folder of the copy; becomes data.root if FOLDER was it")
    parser.add_argument(
        "--format", choices=["wav", "flac"], default="wav", help="wav reads faster (%(default)s)"
    )
    parser.add_argument(
        "--trim-silence",
        action="store_true",
        help=f"cut pauses out of recordings (not below {' and '.join(BANK_FOLDERS)})",
    )
    parser.add_argument(
        "--lists", nargs="*", help="lists to rewrite (default: *train_list, *trials*, *_test_*)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Copy what is not copied yet, rewrite the lists, name the failures; returns the exit status."""
    if options.processes < 1:
        raise ValueError(f"--processes is {options.processes}: at least 1 has to convert.")
    folder, out = Path(os.path.abspath(options.folder)), Path(os.path.abspath(options.out))
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}, which is to be copied: choose a place outside.")
    jobs = plan_jobs(folder, out, f".{options.format}", options.trim_silence)
    claim_folder(out, {"format": options.format, "trim_silence": options.trim_silence})
    waiting = [job for job in jobs.values() if not is_done(job)]
    failures: list[str] = []
    with ProgressLine("converting", len(jobs), already_done=len(jobs) - len(waiting)) as line:
        for results in map_files(convert, waiting, options.processes):
            failures += [
                f"{waiting[i].source} ended the process that read it" if why is None else why
                for i, why in results
                if why != ""
            ]
            line.add(len(results))
    names = find_lists(folder) if options.lists is None else options.lists
    done = {path for path, job in jobs.items() if is_done(job)}
    print(f"{out}: {len(done)} of {len(jobs)} recordings at {SAMPLE_RATE} Hz, mono, 16 bits")
    for name in names:
        kept, num_left_out = rewrite(folder, name, f".{options.format}", done)
        write_lists({out / Path(name).name: kept}, is_forced=True)
        left_out = f", {num_left_out} left out" if num_left_out else ""
        print(f"{out / Path(name).name}: {len(kept)} lines{left_out}")
    for why in sorted(failures)[:_SHOWN]:
        print(f"not copied: {why}")
    if len(failures) > _SHOWN:
        print(f"not copied: {len(failures) - _SHOWN} more")
    return int(bool(failures))


def plan_jobs(folder: Path, out: Path, suffix: str, is_trimmed: bool) -> dict[str, Job]:
    """Return the job of every recording by its path below the folder; ValueError if two would be one file."""
    jobs: dict[str, Job] = {}
    sources: dict[str, str] = {}
    for source in find_audio_files(folder):
        path = os.path.relpath(source, folder)
        target = os.path.join(out, os.path.splitext(path)[0] + suffix)
        if target in sources:
            raise ValueError(
                f"{sources[target]} and {source} would both become {target}: rename or move one."
            )
        sources[target] = source
        has_speech = not set(BANK_FOLDERS) & set(Path(path).parts)  # the decay of a room is no pause
        jobs[path] = Job(source, target, is_trimmed and has_speech)
    if not jobs:
        raise ValueError(f"{folder} holds no audio files.")
    return jobs


def claim_folder(out: Path, settings: dict[str, object]) -> None:
    """Note how a copy is made; raises FileExistsError for a folder with one made otherwise, or no copy."""
    marker = out / _MARKER
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != settings:
            raise FileExistsError(
                f"{out} holds a copy made with {found}: choose another --out, or delete it."
            )
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty and no copy of this command: choose another --out.")
    write_whole(marker, (json.dumps(settings) + "\n").encode())


def is_done(job: Job) -> bool:
    """Whether a copy is there with its original's time of change (to the second), given to it at the end."""
    try:
        return int(os.stat(job.target).st_mtime) == int(os.stat(job.source).st_mtime)
    except OSError:
        return False


def convert(job: Job) -> str:
    """Make one copy; returns an empty string, or why the recording can't be used.

    Raises OSError when the copy can't be written, which ends the whole command.
    """
    try:
        waveform = read_whole(job.source)
    except AudioError as error:
        return str(error)
    if job.is_trimmed:
        waveform = trim_silence(waveform)
        if not len(waveform):
            return f"{job.source} is silent throughout."
    target, buffer = Path(job.target), io.BytesIO()
    kind = target.suffix[1:].upper()
    soundfile.write(buffer, to_int16(waveform), SAMPLE_RATE, subtype="PCM_16", format=kind)
    write_whole(target, buffer.getvalue())
    modified = os.stat(job.source).st_mtime_ns
    os.utime(target, ns=(modified, modified))
    return ""


def rewrite(folder: Path, name: str, suffix: str, done: set[str]) -> tuple[list[str], int]:
    """Return the lines of a list for the copy, and how many had to be left out."""
    lines, num_left_out = [], 0
    for first, paths in _rows(folder, name):
        inner = [os.path.relpath(os.path.join(folder, path), folder) for path in paths]
        # VoxCeleb's trials leave out the folder of the corpus, and so does what they become.
        if all(path in done or f"voxceleb1/{path}" in done for path in inner):
            lines.append(" ".join([first, *(os.path.splitext(path)[0] + suffix for path in inner)]))
        else:
            num_left_out += 1
    return lines, num_left_out


def _rows(folder: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    if is_trial_list(folder, name):
        for _, is_target, enrolment, test in trial_rows(folder, name):
            yield str(int(is_target)), [enrolment, test]
    else:
        for _, speaker, path in train_rows(folder, name):
            yield speaker, [path]
