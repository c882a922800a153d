"""Read every file of a folder or list and report the bad ones: unreadable, short, silent, clipped, doubled.

Interrupted, the same command goes on; later only new and changed files are read.  What is measured is what
training hears: 16 kHz, mono.  Beside each list with bad lines a copy without them is written, LIST.checked:
of train lists without all bad recordings, of trial lists without faulty trials (listed twice, self-trials,
both labels) and those of unreadable recordings.  Noises and rooms (musan_split, simulated_rirs) need only be
readable.

Exit status: 0 all is good, 1 there are bad files or trials, 2 the check could not be made.
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from sslsv.data.audio import find_audio_files
from sslsv.data.lists import (
    Trials,
    find_lists,
    find_trial_faults,
    is_trial_list,
    read_train_lists,
    read_trials,
    train_rows,
    trial_rows,
)
from sslsv.data.recordings import INDEX
from sslsv.data.section import BANK_FOLDERS
from sslsv.prepare_data.disk import naming_full_disk, write_lists, write_whole
from sslsv.prepare_data.measurements import measure
from sslsv.prepare_data.verdicts import Limits, describe, judge, summarize, to_json


@dataclass
class Corpus:
    """What is checked: recordings, by their absolute paths, and the lists that name them."""

    root: str
    files: dict[str, int] = field(default_factory=dict)  # absolute path -> row of the table
    train_lists: list[str] = field(default_factory=list)
    trial_lists: dict[str, Trials] = field(default_factory=dict)

    def add(self, path: str) -> None:
        """Add a recording by its path, absolute or relative to the root, unless it is there."""
        self.files.setdefault(self._place(path), len(self.files))

    def row(self, path: str) -> int:
        """Return the row of a recording in the table."""
        return self.files[self._place(path)]

    def _place(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.root, path))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data check` takes."""
    limits = Limits()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", metavar="DIR_OR_LIST", help="a folder, a train list or a list of trials")
    parser.add_argument(
        "--root", help="data.root, which paths in lists are relative to (default: their folder)"
    )
    parser.add_argument(
        "--lists",
        nargs="*",
        help="lists below the root (default: *train_list, *trials*, *_test_* that name files of the folder)",
    )
    parser.add_argument("--report", help="folder for the report (default: checks/NAME)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--min-seconds", type=float, default=limits.min_seconds, help="(%(default)s)")
    for name, what in (
        ("silent-share", "time below -60 dB of full scale"),
        ("clipped-share", "samples at full scale"),
        ("dc-offset", "mean, of full scale"),
    ):
        default = getattr(limits, f"max_{name.replace('-', '_')}")
        parser.add_argument(f"--max-{name}", type=float, default=default, help=f"{what} (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Check, write files.parquet, summary.json and the checked lists, print the summary; 1 if any is bad."""
    if options.processes < 1:
        raise ValueError(f"--processes is {options.processes}: at least 1 has to read.")
    corpus = find_corpus(options.target, options.root, options.lists)
    name = os.path.basename(os.path.abspath(options.target))
    report = Path(options.report or Path("checks", name))
    limits = Limits(
        min_seconds=options.min_seconds,
        max_silent_share=options.max_silent_share,
        max_clipped_share=options.max_clipped_share,
        max_dc_offset=options.max_dc_offset,
    )
    with naming_full_disk(report):
        measured = measure(list(corpus.files), report / "measurements.jsonl", options.processes)
    # Where training and trials share audio under two names, it is the training copy that has to go.
    is_in_trials = np.zeros(len(corpus.files), dtype=np.bool_)
    for trials in corpus.trial_lists.values():
        is_in_trials[[corpus.row(path) for path in trials.paths]] = True
    is_speech = np.array([not set(BANK_FOLDERS).intersection(path.split(os.sep)) for path in corpus.files])
    judged = judge(measured, limits, is_in_trials, is_speech)
    lists, lines = checked_lists(corpus, judged, report)
    summary = {"root": corpus.root, **summarize(judged, limits), "lists": lists}
    write_whole(report / "files.parquet", _parquet(judged))
    write_whole(report / "summary.json", to_json(summary).encode())
    if not lists and os.path.isdir(options.target):
        lines.append(
            f"{corpus.root} has no list of these recordings, so none is written without the bad ones; if "
            "another folder has it: --root FOLDER."
        )
    print("\n".join([*describe(summary), *lines, f"report: {report}/files.parquet, {report}/summary.json"]))
    return int(summary["bad_files"] > 0 or any(entry["dropped"] for entry in lists.values()))


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def find_corpus(target: str, root: str | None, lists: list[str] | None) -> Corpus:
    """Return what a folder or list names; raises as the readers of lists do."""
    if os.path.isdir(target):
        corpus = Corpus(os.path.abspath(root or target))
        _refuse_packed(target, corpus.root)
        for path in find_audio_files(os.path.abspath(target)):
            corpus.add(path)
        chosen = _lists_naming(os.path.abspath(target), corpus.root) if lists is None else lists
    else:
        if lists:
            raise ValueError(f"--lists goes with a folder, and {target} is a list: check one at a time.")
        is_below_root = root is not None and not Path(target).exists()
        corpus = Corpus(os.path.abspath(root or os.path.dirname(target) or "."))
        _refuse_packed(corpus.root)
        chosen = [target if is_below_root else os.path.abspath(target)]
    for name in chosen:
        if is_trial_list(corpus.root, name):
            corpus.trial_lists[name] = read_trials(corpus.root, name, is_strict=False)
            paths = corpus.trial_lists[name].paths
        else:
            corpus.train_lists.append(name)
            paths = read_train_lists(corpus.root, [name]).paths
        for path in paths:
            corpus.add(path)
    if not corpus.files:
        raise ValueError(f"{target} holds no audio files.")
    return corpus


def _refuse_packed(*folders: str) -> None:
    for folder in folders:
        if os.path.isfile(os.path.join(folder, INDEX)):
            raise ValueError(
                f"{folder} is a packed folder, whose recordings are no files: check the folder that it was "
                "packed from; `prepare_data pack`, repeated, checks every byte of a packed one."
            )


def _lists_naming(folder: str, root: str) -> list[str]:
    """Return the lists directly in the root, without those that name nothing in a folder below it."""
    if os.path.samefile(folder, root):
        return find_lists(root)
    prefixes = tuple(os.path.join(place, "") for place in (folder, os.path.relpath(folder, root)))

    def is_below(path: str) -> bool:
        return path.startswith(prefixes)

    def names_some(name: str) -> bool:
        if not is_trial_list(root, name):
            return any(is_below(path) for _, _, path in train_rows(root, name))
        for path in (path for row in trial_rows(root, name) for path in row[2:]):
            full = os.path.join("voxceleb1", path)  # VoxCeleb's trials leave out the folder of the corpus
            if is_below(path) or is_below(full) and os.path.exists(os.path.join(root, full)):
                return True
        return False

    return [name for name in find_lists(root) if names_some(name)]


def checked_lists(corpus: Corpus, judged: pa.Table, report: Path) -> tuple[dict[str, Any], list[str]]:
    """Write LIST.checked for every list with bad lines; returns what became of each, and lines to print."""
    is_bad = judged["is_bad"].to_numpy()
    is_unreadable = judged["is_unreadable"].to_numpy()
    entries: dict[str, Any] = {}
    lines = []
    for name in corpus.train_lists:
        is_kept = ~is_bad[[corpus.row(path) for _, _, path in train_rows(corpus.root, name)]]
        entries[name] = {"kept": int(is_kept.sum()), "dropped": int((~is_kept).sum())}
        kept_lines = _kept_rows(corpus.root, name, is_kept)
        lines.append(_write_checked(corpus.root, name, kept_lines, entries[name], report))
    for name, trials in corpus.trial_lists.items():
        faults = find_trial_faults(trials)
        if faults:
            lines.append(f"{name}: {faults.describe(corpus.root, name)}")
        is_lost = is_unreadable[[corpus.row(path) for path in trials.paths]]
        is_kept = faults.is_kept & ~is_lost[trials.enrol] & ~is_lost[trials.test]
        entries[name] = {
            "kept": int(is_kept.sum()),
            "dropped": int((~is_kept).sum()),
            "self_trials": len(faults.self_trials),
            "repeated": len(faults.repeated),
            "contradicting": len(faults.contradicting),
        }
        kept_lines = _kept_trials(corpus.root, name, is_kept)
        lines.append(_write_checked(corpus.root, name, kept_lines, entries[name], report))
    return entries, lines


def _kept_rows(root: str, name: str, is_kept: npt.NDArray[np.bool_]) -> Iterator[str]:
    for is_good, (_, speaker, path) in zip(is_kept, train_rows(root, name), strict=True):
        if is_good:
            yield f"{speaker} {path}"


def _kept_trials(root: str, name: str, is_kept: npt.NDArray[np.bool_]) -> Iterator[str]:
    rows = trial_rows(root, name)
    for is_good, (_, is_target, enrolment, test) in zip(is_kept, rows, strict=True):
        if is_good:
            yield f"{int(is_target)} {enrolment} {test}"


def _write_checked(root: str, name: str, kept: Iterable[str], entry: dict[str, Any], report: Path) -> str:
    # Beside the list, where training finds it, or in the report's folder if that place can't be written.
    if not entry["dropped"]:
        return f"{name}: all {entry['kept']} lines are good"
    kept = list(kept)
    place = Path(root) / f"{name}.checked"
    try:
        write_lists({place: kept}, is_forced=True)
    except OSError:
        place = report / f"{Path(name).name}.checked"
        write_lists({place: kept}, is_forced=True)
    entry["checked"] = os.path.abspath(place)
    return f"{place}: {entry['kept']} good lines of {name}, {entry['dropped']} left out"
