"""Read every file of a folder or list and report the bad ones: unreadable, short, silent, clipped, doubled.

Interrupted, the same command goes on; later only new and changed files are read.  What is measured is what
training hears: 16 kHz, mono.  Beside each list with bad lines a copy without them is written, LIST.checked:
of train lists without all bad recordings, of trial lists without faulty trials (listed twice, self-trials,
both labels) and those of unreadable recordings.  Noises and rooms (musan_split, simulated_rirs) need only be
readable.

Exit status: 0 all is good, 1 there are bad files or lists, 2 the check could not be made.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet
import soundfile

from sslsv.data.audio import SAMPLE_RATE, AudioError, find_audio_files, open_audio
from sslsv.data.lists import (
    Trials,
    describe_faults,
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
from sslsv.prepare_data.convert import map_files
from sslsv.prepare_data.disk import naming_full_disk, progress, write_whole
from sslsv.prepare_data.folder import trial_line

SILENCE_DB = -60.0  # a frame below it is silent; full scale is 0 dB
_FRAME = SAMPLE_RATE // 50  # 20 ms
_BLOCK = 60 * SAMPLE_RATE  # read at a time, whatever the length of a recording; a multiple of the frame
_NAMED = 5  # bad files of a kind that are printed

# error: why a file can't be read, then all behind it is missing; sample_rate is the file's; the shares and
# the digest (of 16-bit samples) are measured at 16 kHz, mono.
SCHEMA = pa.schema(
    {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "error": pa.string()}
    | {"seconds": pa.float64(), "sample_rate": pa.int64(), "silent_share": pa.float64()}
    | {"clipped_share": pa.float64(), "digest": pa.string()}
)


class Corpus:
    """Recordings to check, by their absolute paths, and the lists that name them."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.files: dict[str, int] = {}  # absolute path -> row of the table
        self.lists: dict[str, Trials | None] = {}  # name -> its trials, None for a train list

    def rows(self, paths: Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the rows of recordings, by paths relative to the root or absolute; new ones are added."""
        places = (os.path.normpath(os.path.join(self.root, path)) for path in paths)
        return np.array([self.files.setdefault(place, len(self.files)) for place in places], dtype=np.int64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data check` takes."""
    add = parser.add_argument
    add("target", metavar="DIR_OR_LIST", help="a folder, a train list or a list of trials")
    add("--root", help="data.root, which paths in lists are relative to (default: their folder)")
    add("--report", type=Path, help="folder for the report (default: checks/NAME)")
    add("--cpus", type=int, metavar="N", help="processes that read (default: one for each CPU)")
    add("--min-seconds", type=float, default=1.0, help="shortest good recording (%(default)s)")
    add("--max-silent-share", type=float, default=0.95, help="time below -60 dB (%(default)s)")
    add("--max-clipped-share", type=float, default=0.01, help="samples at full scale (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Check, write files.parquet and the checked lists, print what is bad; returns 1 if anything is."""
    corpus = find_corpus(options.target, options.root)
    report = options.report or Path("checks", os.path.basename(os.path.abspath(options.target)))
    with naming_full_disk(report):
        measured = measure(list(corpus.files), report / "measurements.jsonl", options.cpus)
    seconds = measured["seconds"].drop_null().to_numpy()
    print(f"{len(measured)} files, {seconds.sum() / 3600:.3g} hours of audio")
    if len(seconds):
        print(f"seconds: {seconds.min():.2f} to {seconds.max():.2f}, median {np.median(seconds):.2f}")
    faults = find_faults(measured, corpus, options)
    kinds = np.full(len(measured), None, dtype=object)
    for kind, found in faults.items():
        kinds[list(found)] = kind
        if found:
            print(f"{len(found)} {kind}:", *list(found.values())[:_NAMED], sep="\n  ")
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(measured.append_column("fault", pa.array(kinds, pa.string())), sink)
    write_whole(report / "files.parquet", sink.getvalue())
    is_bad = kinds != None  # noqa: E711 - for each element
    is_good = [_check_list(corpus, name, is_bad, measured) for name in corpus.lists]
    if not is_good:
        print(f"{corpus.root} has no list of these recordings; if another folder has it: --root FOLDER.")
    print(f"{is_bad.sum()} bad files; the report: {report}/files.parquet")
    return int(is_bad.any() or not all(is_good))


def find_corpus(target: str, root: str | None) -> Corpus:
    """Return what a folder or list names; raises as the readers of lists do."""
    is_folder = os.path.isdir(target)
    corpus = Corpus(root or (target if is_folder else os.path.dirname(target) or "."))
    if os.path.isfile(os.path.join(corpus.root, INDEX)):
        raise ValueError(
            f"{corpus.root} is a packed folder, whose recordings are no files: check the folder that it was "
            "packed from."
        )
    if is_folder:
        corpus.rows(find_audio_files(os.path.abspath(target)))
    found = set(corpus.files)
    place = target if root is not None and not Path(target).exists() else os.path.abspath(target)
    for name in find_lists(corpus.root) if is_folder else [place]:
        try:
            has_trials = is_trial_list(corpus.root, name)
            trials = read_trials(corpus.root, name) if has_trials else None
            paths = read_train_lists(corpus.root, [name]).paths if trials is None else trials.paths
        except FileNotFoundError as error:
            if not is_folder:
                raise
            print(f"{name} is not checked: {error}")
            continue
        if not is_folder or any(os.path.normpath(os.path.join(corpus.root, path)) in found for path in paths):
            corpus.rows(paths)
            corpus.lists[name] = trials
    if not corpus.files:
        raise ValueError(f"{target} holds no audio files.")
    return corpus


def measure(files: list[str], record: Path, cpus: int | None = None) -> pa.Table:
    """Return a table of SCHEMA with a row for each of `files` (absolute paths), in their order.

    `record` gets a JSON line for each file that was read, and is what the next run goes on from. Unreadable
    files are tried again every time: the trouble may have been the disk's.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    todo, known = _known(files, record)
    if not todo:
        return known
    del known
    with progress("reading", len(files), done=len(files) - len(todo)) as bar, record.open("a") as lines:
        for i, row in map_files(inspect, [files[i] for i in todo], cpus):
            why = "ended the process that read it: its decoder crashes, or there is too little memory"
            lost = stamp(files[todo[i]])
            lines.write(json.dumps(row or {**lost, "error": f"{lost['path']} {why}"}) + "\n")
            lines.flush()
            bar.update()
    return _known(files, record)[1]


def _known(files: list[str], record: Path) -> tuple[list[int], pa.Table]:
    """Return the numbers of the files to be read, and the newest measurements of all in the record."""
    content = record.read_bytes() if record.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(record, len(whole))  # a kill has torn the last line
    parse = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    try:
        source = pa.BufferReader(whole)
        rows = pa.json.read_json(source, parse_options=parse) if whole else SCHEMA.empty_table()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{record} is damaged ({error}): delete it, and all files are read anew.") from error
    newest = {path: i for i, path in enumerate(rows["path"].to_pylist())}
    stamps = [stamp(path) for path in files]
    places = np.array([newest.get(each["path"], -1) for each in stamps])
    rows = rows.take(pa.array(places, mask=places < 0))
    is_old = rows["digest"].is_null().to_numpy()
    for i, name in enumerate(("path", "size", "mtime_ns")):
        now = pa.array([each[name] for each in stamps])
        is_old |= rows[name].to_numpy() != now.to_numpy(zero_copy_only=False)
        rows = rows.set_column(i, name, now)
    return np.flatnonzero(is_old).tolist(), rows


def stamp(path: str) -> dict[str, Any]:
    """Return path, bytes and time of change of a file, by which a change shows; -1 if it is missing."""
    size, mtime_ns = -1, -1
    if os.path.exists(path):
        size, mtime_ns = os.path.getsize(path), os.stat(path).st_mtime_ns
    return {"path": _printable(path), "size": size, "mtime_ns": mtime_ns}


def _printable(text: str) -> str:
    # Names of files need not be valid UTF-8, strings of a table have to be.
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def inspect(path: str) -> dict[str, Any]:
    """Return what is known of a recording, by the columns of SCHEMA that apply to it."""
    silent = clipped = 0
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_audio(path) as file:
            for start in range(0, file.num_samples, _BLOCK):
                samples = file.read_int16(start, min(_BLOCK, file.num_samples - start))
                clipped += int(np.count_nonzero((samples >= 32767) | (samples <= -32767)))
                starts = np.arange(0, len(samples), _FRAME)
                lengths = np.diff(starts, append=len(samples))
                means, powers = (np.add.reduceat((samples / 32768) ** n, starts) / lengths for n in (1, 2))
                is_silent = powers - means**2 < 10.0 ** (SILENCE_DB / 10)  # a constant offset is silence
                silent += int(lengths[is_silent].sum())
                digest.update(samples.astype("<i2").tobytes())
    except AudioError as error:
        return {**stamp(path), "error": _printable(str(error))}
    about = soundfile.info(path)
    shares = {"silent_share": silent / file.num_samples, "clipped_share": clipped / file.num_samples}
    form = {"seconds": about.duration, "sample_rate": about.samplerate, "digest": digest.hexdigest()}
    return {**stamp(path), **form, **shares}


def find_faults(measured: pa.Table, corpus: Corpus, options: argparse.Namespace) -> dict[str, dict[int, str]]:
    """Return the faulty recordings of each kind: row and sentence, the gravest kind last.

    Of recordings with the same samples one stays: that of a trial list, so that the training copy has to go,
    else the first. Noises and rirs only have to be readable.
    """
    is_speech = np.array([not set(BANK_FOLDERS).intersection(path.split(os.sep)) for path in corpus.files])
    paths, digests = measured["path"].to_pylist(), measured["digest"].to_pylist()
    faults: dict[str, dict[int, str]] = {}
    for kind, column, sign, limit in (
        ("short", "seconds", -1, options.min_seconds),
        ("clipped", "clipped_share", 1, options.max_clipped_share),
        ("silent", "silent_share", 1, options.max_silent_share),
    ):
        values = measured[column].to_numpy()
        rows = np.flatnonzero((sign * values > sign * limit) & is_speech).tolist()
        faults[kind] = {i: f"{paths[i]}: {column} {values[i]}" for i in rows}
    is_in_trials = np.zeros(len(measured), dtype=np.bool_)
    for trials in corpus.lists.values():
        is_in_trials[corpus.rows(trials.paths if trials else [])] = True
    first: dict[str, int] = {}
    faults["doubled"] = {}
    for i in np.argsort(~is_in_trials, kind="stable").tolist():
        if digests[i] is not None and is_speech[i] and first.setdefault(digests[i], i) != i:
            faults["doubled"][i] = f"{paths[i]}: the same samples as {paths[first[digests[i]]]}"
    errors = measured["error"].to_pylist()
    faults["unreadable"] = {i: errors[i] for i, digest in enumerate(digests) if digest is None}
    return faults


def _check_list(corpus: Corpus, name: str, is_bad: npt.NDArray[np.bool_], measured: pa.Table) -> bool:
    """Write LIST.checked if a list has bad lines and say so; returns whether it is good."""
    trials = corpus.lists[name]
    if trials is None:
        rows = [(speaker, path) for _, speaker, path in train_rows(corpus.root, name)]
        is_kept = ~is_bad[corpus.rows(path for _, path in rows)]
        kept = [f"{speaker} {path}" for good, (speaker, path) in zip(is_kept, rows, strict=True) if good]
    else:
        faults = find_trial_faults(trials)
        if why := describe_faults(faults, corpus.root, name):
            print(f"{name}: {why}")
        is_lost = measured["digest"].is_null().to_numpy()[corpus.rows(trials.paths)]
        is_kept = ~np.any([*faults.values(), is_lost[trials.enrol], is_lost[trials.test]], axis=0)
        lines = zip(is_kept, trial_rows(corpus.root, name), strict=True)
        kept = [trial_line(label, *pair) for good, (_, label, *pair) in lines if good]
    if is_kept.all():
        print(f"{name}: all {len(kept)} lines are good")
        return True
    place = Path(corpus.root) / f"{name}.checked"
    write_whole(place, "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape"))
    print(f"{place}: {len(kept)} good lines of {name}, {len(is_kept) - len(kept)} left out")
    return False
