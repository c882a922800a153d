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
NUM_NAMED = 5  # examples that a message lists

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
    sources: list[TrainedOn] = []
    for _ in range(MAX_STAGES):
        root, run = config.data.root, folder.read_json("run.json") if folder.has("run.json") else {}
        message = f"The training data of {folder.location} is not known"
        if "imported_from" in run:
            return sources, [f"{message}: it was imported from {run['imported_from']}."]
        try:
            sources.append(TrainedOn.read(folder, root) or TrainedOn.of(root, open_training_side(config)[0]))
        except (ValueError, OSError) as error:
            return sources, [f"{message}: {error}"]
        start = config.encoder.init or getattr(config.encoder, "weights", None)
        if start is None:
            return sources, []
        folder = RunFolder.at(re.sub(r"(/checkpoints)?/[^/]+\.pt$", "", str(start)))
        try:
            config = read_config(folder.read("config.yml").decode())
        except (ValueError, OSError):
            break
    return sources, [f"The training data of {start}, from which the run started, is not known."]


def find_overlap(trials: Trials, root: str, sources: Sequence[TrainedOn]) -> Overlap:
    """Compare the recordings of trials, below `root`, with training data: speakers, paths and contents."""
    paths, columns, has_sources = trials.paths, speaker_path_parts(trials), bool(sources)
    num_speakers = max(map(len, columns.values()), default=0)
    speakers, same_path, same_content = set[str](), set[int](), dict[int, str]()
    compared = set(range(len(paths) if sources else 0))
    for source in sources:
        speakers |= _speakers_of(source, columns)
        same_path |= _same_paths(root, paths, source)
        matches, comparable = _same_contents(root, paths, source)
        same_content, compared = matches | same_content, compared & comparable
    # If every speaker has one session, the session folder names speakers too; the larger overlap counts.
    shared = sorted(max((names & speakers for names in columns.values()), key=len, default=()))
    copies = [f"{paths[i]} ({same_content[i]})" for i in sorted(same_content.keys() - same_path)]
    # Different corpora often use the same names for different people, such as id00800 or 001.
    is_one_corpus = bool(same_path or same_content) or absolute(root) in {absolute(s.root) for s in sources}

    def entry(names: list[str], num_compared: int, total: int) -> dict[str, Any]:
        counts = {"shared": len(names), "compared": num_compared, "all": total}
        return {**counts, "examples": [printable(name) for name in names[:NUM_NAMED]]}

    return {
        "speakers": entry(shared, num_speakers * has_sources, num_speakers) | {"one_corpus": is_one_corpus},
        "paths": entry([paths[i] for i in sorted(same_path)], len(paths) * has_sources, len(paths)),
        "contents": entry(copies, len(compared), len(paths)),
    }


def describe(name: str, overlap: Overlap) -> tuple[list[str], list[str]]:
    """Return warnings about shared data, and remarks on doubtful, clean and impossible comparisons."""
    warnings, remarks, clean, gaps = list[str](), list[str](), list[str](), list[str]()
    for kind, entry in overlap.items():
        shared, compared, total = entry["shared"], entry["compared"], entry["all"]
        noun = kind if kind == "speakers" else f"{kind} of recordings"
        examples = f"{', '.join(entry['examples'])}{' and others' if shared > NUM_NAMED else ''}"
        if shared and entry.get("one_corpus", True):
            warnings.append(
                f"{shared:,} of {total:,} {noun} of {name} were in training: {examples}. Error rates "
                "on it are not test results."
            )
        elif shared:
            remarks.append(
                f"{shared:,} of {total:,} {noun} of {name} have names of training speakers, but are in "
                f"another folder and share no recording: {examples}. If they are the same people, error "
                "rates on it are not test results."
            )
        elif compared and not (kind == "contents" and overlap["paths"]["shared"]):  # implied by shared paths
            clean.append(f"{compared:,} {noun}")
        if not total:
            gaps.append(f"{noun} (no path names them)")
        elif compared < total:
            gaps.append(f"{total - compared:,} {noun}")
    phrases = {"shares none of these with the training": clean, "was not compared with the training by": gaps}
    remarks += [f"{name} {phrase}: {', '.join(parts)}." for phrase, parts in phrases.items() if parts]
    return warnings, remarks


def _speakers_of(source: TrainedOn, columns: dict[int, set[str]]) -> set[str]:
    # Returns the speakers of the train lists, and components of training paths that may name speakers: all at
    # the positions that name speakers in the trials (`columns`), and anywhere the same names, except numbers.
    speakers = set(source.speakers)
    trial_names = {name for names in columns.values() for name in names if not name.isdigit()}
    # There are few distinct folders and few distinct file names, but up to a million distinct paths.
    split_paths = map(os.path.split, source.paths)
    for path in {part for folder, name in split_paths for part in (f"{folder}/", name)}:
        parts = path_parts(path)
        speakers |= trial_names.intersection(parts)
        speakers |= {parts[-position] for position in columns if position <= len(parts)}
    return speakers


def _same_paths(root: str, paths: Sequence[str], source: TrainedOn) -> set[int]:
    # Recordings are the same if their paths below the folder, or their absolute paths, are equal without the
    # suffix. A segment counts as its entire recording.
    def stems(names: Iterable[str], folder: str) -> Iterator[tuple[int, str]]:
        for i, path in enumerate(names):
            for prefix in ("", absolute(folder)):
                yield i, os.path.splitext(below(prefix, split_segment(path)[0]))[0]

    indices = {stem: i for i, stem in stems(paths, root)}
    return {indices[stem] for _, stem in stems(source.paths, source.root) if stem in indices}


def _same_contents(root: str, paths: Sequence[str], source: TrainedOn) -> tuple[dict[int, str], set[int]]:
    # Returns {index of a test recording: training recording of the same content}, and the indices that could
    # be compared. Training files of the rarest sizes are read first, up to MAX_READ files.
    try:
        test_files, training_files = open_recordings(root), open_recordings(source.root)
    except (ValueError, OSError):  # The object storage is gone.
        return {}, set()
    sizes = test_files.sizes(paths)
    values, counts = np.unique(source.sizes[source.sizes != -1], return_counts=True)
    if not len(values):  # The files were missing when the record was made.
        return {}, set()
    num_equal = np.where(np.isin(sizes, values), counts[np.searchsorted(values, sizes) % len(values)], 0)
    is_comparable = (sizes != -1) & ((sizes < -1) == (values[0] < -1))  # both are files, or both packed
    compared = set(np.flatnonzero((num_equal == 0) & is_comparable).tolist())
    groups = np.array(sorted({*zip(num_equal.tolist(), sizes.tolist(), strict=True)})).T
    chosen = groups[1, (groups[0] > 0) & (np.cumsum(groups[0]) <= MAX_READ)]
    indices, source_indices = (np.flatnonzero(np.isin(s, chosen)).tolist() for s in (sizes, source.sizes))
    digests = training_files.fingerprints([source.paths[i] for i in source_indices])
    path_of = {digest: source.paths[i] for i, digest in zip(source_indices, digests, strict=True)}
    unread = {int(source.sizes[i]) for i, digest in zip(source_indices, digests, strict=True) if not digest}
    test_digests = dict(zip(indices, test_files.fingerprints([paths[i] for i in indices]), strict=True))
    same = {i: path_of[digest] for i, digest in test_digests.items() if digest and digest in path_of}
    fully_read = {i for i, digest in test_digests.items() if digest and int(sizes[i]) not in unread}
    return same, compared | same.keys() | fully_read
