"""Predict a label, such as language, emotion, gender, age group or speaker, from frozen embeddings.

The classifier is a multinomial logistic regression on embeddings of full recordings, with each dimension
scaled to mean 0 and deviation 1 over the training list. Labels are categories: ages must be given as groups.

A line of a list is `label path` or `label path speaker`, separated by blanks, or by tabs if a label or path
contains blanks. Tables whose first line names these columns are read too. Speakers are not derived from
folders, because in a corpus of languages or emotions the folder is often the label. Such folds would separate
the labels instead of the speakers.
"""

import warnings
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslsv.data.list_forms import LABELS, Rows
from sslsv.data.lists import path_resolver
from sslsv.data.recordings import open_recordings
from sslsv.evaluation.embedding import EmbeddingStore
from sslsv.evaluation.intervals import Interval
from sslsv.evaluation.trials import MAX_NAMED, find_list, source_of
from sslsv.settings import section

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # values of C to choose from; small C: strong penalty
NUM_FOLDS = 5  # folds of the training list, used to choose C
MAX_ITERATIONS = 2000
FEW_UNITS = 10  # intervals over draws of so few speakers are too narrow


@dataclass(frozen=True, kw_only=True)
class LabelList:
    """Hold labelled recordings, in the order of the list."""

    file: str  # path or URI
    root: str  # folder that the paths are relative to
    lines: list[int]  # line of each recording, from 1
    labels: list[str]
    paths: list[str]
    speakers: list[str]  # empty if the list names none
    notes: tuple[str, ...] = ()  # how the list was read

    def named(self, rows: Collection[int]) -> str:
        """Return the first of some recordings as text, each with its line."""
        named = [f"{self.paths[i]} (line {self.lines[i]})" for i in sorted(rows)[:MAX_NAMED]]
        return ", ".join([*named, *["..."] * (len(rows) > MAX_NAMED)])

    def counts(self) -> dict[str, int]:
        """Count recordings, labels and, if they are named, speakers."""
        counts = {"recordings": len(self.paths), "labels": len(set(self.labels))}
        return counts | ({"speakers": len(set(self.speakers))} if self.speakers else {})


class Probe:
    """Fit a classifier to one label list and measure it on another; the encoder is not changed."""

    @section
    class Config:
        """Hold the settings of a probe."""

        name: Literal["probe"] = "probe"
        replicates: Annotated[int, Field(ge=0, description="draws for the intervals; 0 = none")] = 1000

    def __init__(self, config: Config, root: str, train: str, test: str) -> None:
        """Read and check both lists; raises ValueError or FileNotFoundError."""
        self.config = config
        self.lists = [read_label_list(root, name) for name in (train, test)]
        check_lists(*self.lists)

    def __len__(self) -> int:
        return sum(len(each.paths) for each in self.lists)

    def run(self, store: EmbeddingStore) -> dict[str, Any]:
        """Return the probe's part of probe.json: metrics, labels, confusion matrix, chosen C and notes.

        Raises ValueError for recordings that can't be read, or if speakers can't be divided into folds.
        """
        train, test = self.lists
        rows, test_rows = (_embed(label_list, store) for label_list in self.lists)
        names, truth = np.unique(train.labels, return_inverse=True)
        expected = np.searchsorted(names, test.labels)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS)),
            {"logisticregression__C": STRENGTHS},  # of equal scores, the first is chosen: the simplest model
            scoring="f1_macro",
            cv=self._folds(truth, train.speakers),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a note reports it
            search.fit(rows, truth)
        strength, scores = STRENGTHS[search.best_index_], search.cv_results_["mean_test_score"].tolist()
        is_converged = search.best_estimator_[-1].n_iter_.max() < MAX_ITERATIONS
        predicted, count = search.predict(test_rows), len(names)
        metrics: dict[str, dict[str, float]] = {
            name: {"value": value}
            for name, value in accuracy_and_f1(expected, predicted, np.ones(len(expected)), count).items()
        }
        units = np.unique(test.speakers or test.paths, return_inverse=True)[1]
        if self.config.replicates and units.max() > 0:
            intervals = bootstrap(expected, predicted, units, count, self.config.replicates)
            for name, interval in intervals.items():
                metrics[name] |= interval._asdict()
        most_frequent = np.bincount(truth).argmax()
        return {
            "lists": {
                role: source_of(label_list.file) | {"counts": label_list.counts()}
                for role, label_list in (("train", train), ("test", test))
            },
            "metrics": metrics,
            "baseline_accuracy": float((expected == most_frequent).mean()),
            "strength": strength,
            "macro_f1_of_strengths": dict(zip(map("{:g}".format, STRENGTHS), scores, strict=True)),
            "labels": names.tolist(),
            "confusion": confusion_matrix(expected, predicted, labels=np.arange(count)).tolist(),
            "notes": self._notes(train, test, strength, is_converged),
        }

    def _folds(self, truth: Indices, speakers: list[str]) -> list[tuple[Indices, Indices]]:
        """Return (training, held-out) rows of each fold, without common speakers if speakers are known."""
        groups = np.array(speakers) if speakers else None
        units = np.arange(len(truth)) if groups is None else groups
        count = int(truth.max()) + 1
        fewest = min(len(np.unique(units[truth == label])) for label in range(count))
        splitter_class = StratifiedGroupKFold if speakers else StratifiedKFold
        splitter = splitter_class(min(NUM_FOLDS, fewest), shuffle=True, random_state=0)
        # If speakers have several labels, some folds may lack a label in their training rows: leave them out.
        folds = [
            (fit_rows, held_out)
            for fit_rows, held_out in splitter.split(truth, truth, groups)
            if len(held_out) and len(np.unique(truth[fit_rows])) == count
        ]
        if not folds:
            raise ValueError(
                "the speakers of the training list can't be divided so that each part has every label; give "
                "the labels more speakers, or leave out the column of speakers"
            )
        return folds

    def _notes(self, train: LabelList, test: LabelList, strength: float, is_converged: bool) -> list[str]:
        """Return sentences that a reader of the results needs."""
        units = "speakers" if train.speakers else "recordings"
        notes = [
            *train.notes,
            *test.notes,
            "Labels were used to fit the probe, not the encoder. Regularisation was chosen on held-out "
            f"{units} of the training list, by macro F1.",
        ]
        if not train.speakers or not test.speakers:
            notes.append(
                "A list names no speakers, so the same voices may be in both lists, or in several folds."
            )
        elif shared := set(train.speakers) & set(test.speakers):
            notes.append(f"{len(shared)} speakers are in both lists: the probe may infer labels from voices.")
        if not is_converged:
            notes.append(f"The fit had not converged after {MAX_ITERATIONS} iterations.")
        if strength in (STRENGTHS[0], STRENGTHS[-1]):
            notes.append(f"The strength chosen, {strength:g}, is an end of the range tried.")
        count = len(set(test.speakers or test.paths))
        drawn = f"{count} test {'speakers' if test.speakers else 'recordings'}"
        if self.config.replicates and count > 1:
            narrow = "; with so few, they are too narrow" if count <= FEW_UNITS else ""
            notes.append(f"Intervals are 95 %, over draws of the {drawn}{narrow}.")
        return notes


def read_label_list(root: str, name: str) -> LabelList:
    """Read a list given by its name below `root`, or by a path.

    Raises ValueError for a malformed line or a path listed twice, FileNotFoundError for what is missing.
    """
    file = find_list(root, name)
    rows: dict[str, tuple[int, str, str]] = {}  # by path: line, label, speaker
    reader = Rows(root, file, LABELS)
    for line, label, path, speaker in reader:
        if path in rows:
            raise ValueError(
                f"{file}, line {line}: {path} is listed twice, first in line {rows[path][0]}; remove one of "
                "the lines."
            )
        rows[path] = line, label, speaker
        *_, first_speaker = next(iter(rows.values()))
        if bool(speaker) != bool(first_speaker):
            raise ValueError(
                f"{file}, line {line}: this line {'names' if speaker else 'lacks'} a speaker, unlike those "
                "above it; name the speaker in every line, or in none."
            )
    lines, labels, speakers = map(list, zip(*rows.values(), strict=True))
    return LabelList(
        file=file,
        root=root,
        lines=lines,
        labels=labels,
        paths=list(map(path_resolver(root, file, list(rows)), rows)),
        speakers=[speaker for speaker in speakers if speaker],
        notes=reader.note(f"{len(rows):,} recordings"),
    )


def check_lists(train: LabelList, test: LabelList) -> None:
    """Raise ValueError if a classifier can't be trained on `train`, or can't be measured on `test`."""
    units: dict[str, set[str]] = defaultdict(set)  # label -> its speakers, or recordings if none are named
    for label, unit in zip(train.labels, train.speakers or train.paths, strict=True):
        units[label].add(unit)
    if len(units) < 2:
        raise ValueError(
            f"{train.file} has {len(units)} label(s) ({', '.join(units)}), and a classifier needs two: add "
            "recordings of another label"
        )
    if rare := sorted(label for label, members in units.items() if len(members) < 2):
        unit = "speaker" if train.speakers else "recording"
        raise ValueError(
            f"{len(rare)} of the {len(units)} labels of {train.file} have a single {unit}: "
            f"{', '.join(rare[:MAX_NAMED])}; some are held out to choose the regularisation, so give every "
            f"label two {unit}s or more (or name no speakers if they are the labels)"
        )
    if unknown := [i for i, label in enumerate(test.labels) if label not in units]:
        names = sorted({test.labels[i] for i in unknown})
        raise ValueError(
            f"{len(unknown)} recordings of {test.file} have labels that are not in {train.file}: "
            f"{', '.join(names[:MAX_NAMED])}; first: {test.named(unknown[:1])}; correct the labels (case "
            "counts), or leave these recordings out"
        )
    locate = open_recordings(train.root).location
    train_locations = set(map(locate, train.paths))
    if shared := [i for i, path in enumerate(test.paths) if locate(path) in train_locations]:
        raise ValueError(
            f"{len(shared)} recordings of {test.file} are in {train.file} too: {test.named(shared)}; "
            "recordings used for training can't be used for testing, so remove them from one of the lists"
        )


def _embed(item: LabelList, store: EmbeddingStore) -> Floats:
    embeddings, unreadable = store.get(item.paths, item.root)
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(item.paths)} recordings of {item.file} cannot be read "
            f"({next(iter(unreadable.values()))}): {item.named(unreadable)}; correct the list (paths with "
            "blanks need tabs between the fields), or give the right --root"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings of {item.file} are not finite; the model may have diverged")
    return embeddings.astype(np.float64)


def accuracy_and_f1(truth: Indices, predicted: Indices, weights: Floats, num_labels: int) -> dict[str, float]:
    """Return the accuracy, and the mean F1 of the labels that occur or are predicted, both 0 to 1.

    `truth` and `predicted` (N,) are label numbers; recording i counts `weights[i]` times.
    """
    hits = np.bincount(truth, weights * (truth == predicted), num_labels)
    actual = np.bincount(truth, weights, num_labels)
    guessed = np.bincount(predicted, weights, num_labels)
    is_present = actual + guessed > 0
    f1 = 2 * hits[is_present] / (actual + guessed)[is_present]
    return {"accuracy": float(hits.sum() / actual.sum()), "macro_f1": float(f1.mean())}


def bootstrap(
    truth: Indices, predicted: Indices, units: Indices, num_labels: int, replicates: int
) -> dict[str, Interval]:
    """Return 95 % percentile intervals of `accuracy_and_f1`, over draws of units with replacement.

    `units` (N,) is the speaker of each recording, 0 to U - 1; recordings of a speaker are not independent.
    """
    generator, count = np.random.default_rng(0), int(units.max()) + 1
    samples = []
    for _ in range(replicates):
        draw_counts = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        samples.append(accuracy_and_f1(truth, predicted, draw_counts[units], num_labels))
    return {
        name: Interval(*np.quantile([sample[name] for sample in samples], [0.025, 0.975]).tolist())
        for name in samples[0]
    }
