"""Find training data in test lists, by speakers, paths and contents.

A run records its training utterances in `trained_on.parquet`, with the size of each file. Test lists are
compared with this record when training begins and in every evaluation. Contents are compared by file size and
pieces of the files, so a copy in another format is not found. Recordings of packed folders are compared by
their samples, but only with recordings of other packed folders.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from sslsv.config import Config, read_config
from sslsv.data.audio_files import printable
from sslsv.data.lists import Manifest, Trials
from sslsv.data.recordings import open_recordings, split_segment
from sslsv.evaluation.trials import open_training_side, path_parts, speaker_path_parts
from sslsv.runs.folder import RunFolder, absolute, below

FILE = "trained_on.parquet"
MAX_READ = 20_000  # training files read per list; takes seconds on a disk, a minute over a network
MAX_STAGES = 20  # longest chain of runs, each started from the weights of another
NUM_NAMED = 5

# Kind (speakers, paths, contents) -> counts `shared`, `compared` and `all`, and `examples` of what is shared.
Overlap = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TrainedOn:
    """Hold the utterances that a run trained on; `root` is the folder that contains them now."""

    root: str
    paths: list[str]
    speakers: list[str]  # the speaker of each path
    sizes: npt.NDArray[np.int64]  # (N,) from `Recordings.sizes` when training began

    @classmethod
    def of(cls, root: str, manifest: Manifest) -> "TrainedOn":
        """Read the file sizes of a manifest; a million files take seconds to minutes."""
        return cls(root, manifest.paths, _speakers(manifest), open_recordings(root).sizes(manifest.paths))

    @classmethod
    def read(cls, folder: RunFolder, root: str) -> "TrainedOn | None":
        """Read the record of a run; None if there is none."""
        if not folder.has(FILE):
            return None
        table = parquet.read_table(pa.BufferReader(folder.read(FILE)))
        paths, speakers = ([os.fsdecode(x) for x in table[name].to_pylist()] for name in ("path", "speaker"))
        return cls(root, paths, speakers, table["size"].to_numpy())

    def is_of(self, manifest: Manifest) -> bool:
        """Return whether `manifest` has the same utterances and speakers in the same order."""
        return self.paths == manifest.paths and self.speakers == _speakers(manifest)

    def write(self, folder: RunFolder) -> None:
        """Write the record to a run folder; about 10 MB for a million utterances."""
        # File names need not be valid UTF-8.
        names = (pa.array(map(os.fsencode, each), pa.binary()) for each in (self.paths, self.speakers))
        table, sink = pa.table([*names, self.sizes], ["path", "speaker", "size"]), pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        folder.write(FILE, sink.getvalue().to_pybytes())


def _speakers(manifest: Manifest) -> list[str]:
    return [manifest.speaker_names[i] for i in manifest.speakers.tolist()]


def trained_on(config: Config, folder: RunFolder) -> tuple[list[TrainedOn], list[str]]:
    """Return the training utterances of a run and of the runs that it started from, and notes on gaps.

    Runs without a record (a trial of a sweep, a copied checkpoint) have their lists read again. The training
    utterances of an imported encoder are unknown: its settings name lists that it was not trained on.
    """
    found: list[TrainedOn] = []
    for _ in range(MAX_STAGES):
        root, run = config.data.root, folder.read_json("run.json") if folder.has("run.json") else {}
        told = f"What {folder.location} was trained on is not known"
        if "imported_from" in run:
            return found, [f"{told}: it was imported from {run['imported_from']}."]
        try:
            found.append(TrainedOn.read(folder, root) or TrainedOn.of(root, open_training_side(config)[0]))
        except (ValueError, OSError) as error:
            return found, [f"{told}: {error}"]
        start = config.encoder.init or getattr(config.encoder, "weights", None)
        if start is None:
            return found, []
        folder = RunFolder.at(re.sub(r"(/checkpoints)?/[^/]+\.pt$", "", str(start)))
        try:
            config = read_config(folder.read("config.yml").decode())
        except (ValueError, OSError):
            break
    return found, [f"What {start}, from which the run started, was trained on is not known."]


def find_overlap(trials: Trials, root: str, sources: Sequence[TrainedOn]) -> Overlap:
    """Compare the recordings of trials, below `root`, with training data: speakers, paths and contents."""
    paths, columns, known = trials.paths, speaker_path_parts(trials), bool(sources)
    num_speakers = max(map(len, columns.values()), default=0)
    speakers, same_path, same_content = set[str](), set[int](), dict[int, str]()
    compared = set(range(len(paths) if sources else 0))
    for source in sources:
        speakers |= _speakers_of(source, columns)
        same_path |= _same_paths(root, paths, source)
        found, able = _same_contents(root, paths, source)
        same_content, compared = found | same_content, compared & able
    # If every speaker has one session, the session folder names speakers too; the larger overlap counts.
    shared = sorted(max((names & speakers for names in columns.values()), key=len, default=()))
    copies = [f"{paths[i]} ({same_content[i]})" for i in sorted(same_content.keys() - same_path)]
    # Different corpora often use the same names for different people, such as id00800 or 001.
    is_one_corpus = bool(same_path or same_content) or absolute(root) in {absolute(s.root) for s in sources}

    def part(names: list[str], num_compared: int, everything: int) -> dict[str, Any]:
        counts = {"shared": len(names), "compared": num_compared, "all": everything}
        return {**counts, "examples": [printable(name) for name in names[:NUM_NAMED]]}

    return {
        "speakers": part(shared, num_speakers * known, num_speakers) | {"one_corpus": is_one_corpus},
        "paths": part([paths[i] for i in sorted(same_path)], len(paths) * known, len(paths)),
        "contents": part(copies, len(compared), len(paths)),
    }


def describe(name: str, overlap: Overlap) -> tuple[list[str], list[str]]:
    """Return warnings about shared data, and remarks on doubtful, clean and impossible comparisons."""
    warnings, remarks, clean, unknown = list[str](), list[str](), list[str](), list[str]()
    for kind, found in overlap.items():
        shared, compared, everything = found["shared"], found["compared"], found["all"]
        what = kind if kind == "speakers" else f"{kind} of recordings"
        examples = f"{', '.join(found['examples'])}{' and others' if shared > NUM_NAMED else ''}"
        if shared and found.get("one_corpus", True):
            warnings.append(
                f"{shared:,} of {everything:,} {what} of {name} were in training: {examples}. Errors on it "
                "are no test results."
            )
        elif shared:
            remarks.append(
                f"{shared:,} of {everything:,} {what} of {name} have names of training speakers, in another "
                f"folder and without a recording in common: {examples}. If they are the same people, errors "
                "on it are no test results."
            )
        elif compared and not (kind == "contents" and overlap["paths"]["shared"]):  # implied by shared paths
            clean.append(f"{compared:,} {what}")
        if not everything:
            unknown.append(f"{what} (no path tells them)")
        elif compared < everything:
            unknown.append(f"{everything - compared:,} {what}")
    told = {"shares none of these with the training": clean, "was not compared with the training by": unknown}
    remarks += [f"{name} {words}: {', '.join(parts)}." for words, parts in told.items() if parts]
    return warnings, remarks


def _speakers_of(source: TrainedOn, columns: dict[int, set[str]]) -> set[str]:
    # Returns the speakers of the train lists, and components of training paths that may name speakers: all at
    # the positions that name speakers in the trials (`columns`), and anywhere the same names, except numbers.
    found = set(source.speakers)
    words = {name for names in columns.values() for name in names if not name.isdigit()}
    # There are few distinct folders and few distinct file names, but up to a million distinct paths.
    ends = map(os.path.split, source.paths)
    for path in {part for folder, name in ends for part in (f"{folder}/", name)}:
        parts = path_parts(path)
        found |= words.intersection(parts)
        found |= {parts[-place] for place in columns if place <= len(parts)}
    return found


def _same_paths(root: str, paths: Sequence[str], source: TrainedOn) -> set[int]:
    # Recordings are the same if their paths below the folder, or their absolute paths, are equal without the
    # suffix. A segment counts as its entire recording.
    def stems(of: Iterable[str], folder: str) -> Iterator[tuple[int, str]]:
        for i, path in enumerate(of):
            for place in ("", absolute(folder)):
                yield i, os.path.splitext(below(place, split_segment(path)[0]))[0]

    places = {stem: i for i, stem in stems(paths, root)}
    return {places[stem] for _, stem in stems(source.paths, source.root) if stem in places}


def _same_contents(root: str, paths: Sequence[str], source: TrainedOn) -> tuple[dict[int, str], set[int]]:
    # Returns {index of a test recording: training recording of the same content}, and the indices that could
    # be compared. Training files of the rarest sizes are read first, up to MAX_READ files.
    try:
        listed, trained = open_recordings(root), open_recordings(source.root)
    except (ValueError, OSError):  # The object storage is gone.
        return {}, set()
    sizes = listed.sizes(paths)
    values, counts = np.unique(source.sizes[source.sizes != -1], return_counts=True)
    if not len(values):  # The files were missing when the record was made.
        return {}, set()
    rivals = np.where(np.isin(sizes, values), counts[np.searchsorted(values, sizes) % len(values)], 0)
    is_able = (sizes != -1) & ((sizes < -1) == (values[0] < -1))  # both are files, or both packed
    compared = set(np.flatnonzero((rivals == 0) & is_able).tolist())
    groups = np.array(sorted({*zip(rivals.tolist(), sizes.tolist(), strict=True)})).T
    chosen = groups[1, (groups[0] > 0) & (np.cumsum(groups[0]) <= MAX_READ)]
    mine, theirs = (np.flatnonzero(np.isin(of, chosen)).tolist() for of in (sizes, source.sizes))
    digests = trained.fingerprints([source.paths[i] for i in theirs])
    known = {digest: source.paths[i] for i, digest in zip(theirs, digests, strict=True)}
    gone = {int(source.sizes[i]) for i, digest in zip(theirs, digests, strict=True) if not digest}
    found = dict(zip(mine, listed.fingerprints([paths[i] for i in mine]), strict=True))
    same = {i: known[digest] for i, digest in found.items() if digest and digest in known}
    return same, compared | same.keys() | {i for i, d in found.items() if d and int(sizes[i]) not in gone}
