"""Tell a label, such as language, emotion, gender, age group or speaker, from frozen embeddings.

The classifier is a multinomial logistic regression on embeddings of whole recordings, each dimension brought
to mean 0 and deviation 1 over the training list. Labels are names: ages must be given as groups.
"""

import warnings
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

from sslsv.evaluation.embedding import EmbeddingStore
from sslsv.evaluation.intervals import Interval
from sslsv.evaluation.trials import source_of
from sslsv.settings import section
from sslsv.tasks.labels import LabelList, check_lists, read_label_list

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
MAX_ITERATIONS = 2000
FEW_UNITS = 10  # Intervals over draws of so few speakers are too narrow.


class Probe:
    """Fit a classifier to one label list and measure it on another; the encoder is not changed."""

    @section
    class Config:
        """Hold the settings of a probe."""

        name: Literal["probe"] = "probe"
        strengths: Annotated[
            tuple[float, ...],
            Field(min_length=1, description="weights of the data against the penalty (C) to choose from"),
        ] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
        num_folds: Annotated[int, Field(ge=2, description="parts of the training list, for the choice")] = 5
        replicates: Annotated[int, Field(ge=0, description="draws for the intervals; 0 = none")] = 1000
        seed: int = 0

    def __init__(self, config: Config, root: str, train: str, test: str) -> None:
        """Read and check both lists; raises ValueError or FileNotFoundError with a sentence."""
        self.config = config
        self.lists = [read_label_list(root, name) for name in (train, test)]
        check_lists(*self.lists)

    def __len__(self) -> int:
        """Return the number of recordings to embed."""
        return sum(len(each.paths) for each in self.lists)

    def run(self, store: EmbeddingStore) -> dict[str, Any]:
        """Return the probe's part of its result file: metrics, classes, confusion, choice and notes.

        Raises ValueError for recordings that can't be read, and where speakers can't be divided into folds.
        """
        train, test = self.lists
        rows, test_rows = (_embedded(each, store) for each in self.lists)
        names, truth = np.unique(train.labels, return_inverse=True)
        expected = np.searchsorted(names, test.labels)
        strengths = sorted(self.config.strengths)  # Of equals the first is chosen, the simplest model.
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS)),
            {"logisticregression__C": strengths},
            scoring="f1_macro",
            cv=self._folds(truth, train.speakers),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # A note tells of it.
            search.fit(rows, truth)
        strength, values = strengths[search.best_index_], search.cv_results_["mean_test_score"].tolist()
        is_converged = search.best_estimator_[-1].n_iter_.max() < MAX_ITERATIONS
        predicted, count = search.predict(test_rows), len(names)
        metrics: dict[str, dict[str, float]] = {
            name: {"value": value}
            for name, value in accuracy_and_f1(expected, predicted, np.ones(len(expected)), count).items()
        }
        units = np.unique(test.speakers or test.paths, return_inverse=True)[1]
        if self.config.replicates and units.max() > 0:
            found = bootstrap(expected, predicted, units, count, self.config.replicates, self.config.seed)
            for name, ends in found.items():
                metrics[name] |= ends._asdict()
        most_frequent = np.bincount(truth).argmax()
        return {
            "lists": {
                role: source_of(each.file) | {"counts": each.counts()}
                for role, each in (("train", train), ("test", test))
            },
            "metrics": metrics,
            "baseline_accuracy": float((expected == most_frequent).mean()),
            "strength": strength,
            "macro_f1_of_strengths": dict(zip(map("{:g}".format, strengths), values, strict=True)),
            "labels": names.tolist(),
            "confusion": confusion_matrix(expected, predicted, labels=np.arange(count)).tolist(),
            "notes": self._notes(train, test, strength, is_converged),
        }

    def _folds(self, truth: Indices, speakers: list[str]) -> list[tuple[Indices, Indices]]:
        """Return (fitted to, held out) rows, the latter of other speakers where known."""
        groups = np.array(speakers) if speakers else None
        units = np.arange(len(truth)) if groups is None else groups
        count = int(truth.max()) + 1
        fewest = min(len(np.unique(units[truth == label])) for label in range(count))
        kind = StratifiedGroupKFold if speakers else StratifiedKFold
        splitter = kind(min(self.config.num_folds, fewest), shuffle=True, random_state=self.config.seed)
        # Speakers with several labels can't always be divided so that each part has all labels.
        folds = [
            (kept, held)
            for kept, held in splitter.split(truth, truth, groups)
            if len(held) and len(np.unique(truth[kept])) == count
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
        found = [
            *train.notes,
            *test.notes,
            "Labels were used to fit the probe, not the encoder. Regularisation was chosen on held-out "
            f"{units} of the training list, by macro F1.",
        ]
        if not train.speakers or not test.speakers:
            found.append(
                "A list names no speakers, so the same voices may be in both lists, or in several folds."
            )
        elif shared := set(train.speakers) & set(test.speakers):
            found.append(f"{len(shared)} speakers are in both lists: the probe may know labels by voices.")
        if not is_converged:
            found.append(f"The fit had not converged after {MAX_ITERATIONS} iterations.")
        ends = min(self.config.strengths), max(self.config.strengths)
        if strength in ends and len(self.config.strengths) > 1:
            found.append(f"The strength chosen, {strength:g}, is an end of the range tried.")
        count = len(set(test.speakers or test.paths))
        drawn = f"{count} test {'speakers' if test.speakers else 'recordings'}"
        if self.config.replicates and count > 1:
            narrow = "; of so few they are too narrow" if count <= FEW_UNITS else ""
            found.append(f"Intervals are 95 %, over draws of the {drawn}{narrow}.")
        return found


def _embedded(item: LabelList, store: EmbeddingStore) -> Floats:
    embeddings, bad = store.get(item.paths, item.root)
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(item.rows)} recordings of {item.file} cannot be read "
            f"({next(iter(bad.values()))}): {item.named(bad)}; correct the list (paths with blanks need tabs "
            "between the fields), or give the right --root"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings of {item.file} are not finite; the model may have diverged")
    return embeddings.astype(np.float64)


def accuracy_and_f1(truth: Indices, predicted: Indices, weights: Floats, num_labels: int) -> dict[str, float]:
    """Return the accuracy, and the mean F1 of the labels that were spoken or predicted, both 0 to 1.

    `truth` and `predicted` (N,) are label numbers; recording i counts `weights[i]` times.
    """
    hits, named, guessed = (
        np.bincount(of, weight, num_labels)
        for of, weight in ((truth, weights * (truth == predicted)), (truth, weights), (predicted, weights))
    )
    is_met = named + guessed > 0
    f1 = 2 * hits[is_met] / (named + guessed)[is_met]
    return {"accuracy": float(hits.sum() / named.sum()), "macro_f1": float(f1.mean())}


def bootstrap(
    truth: Indices, predicted: Indices, units: Indices, num_labels: int, replicates: int, seed: int
) -> dict[str, Interval]:
    """Return 95 % percentile intervals of `accuracy_and_f1`, over draws of units with replacement.

    `units` (N,) says whose each recording is, 0 to U - 1: what a speaker says succeeds and fails together.
    """
    generator, count = np.random.default_rng(seed), int(units.max()) + 1
    found = []
    for _ in range(replicates):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        found.append(accuracy_and_f1(truth, predicted, drawn[units], num_labels))
    return {
        name: Interval(*np.quantile([each[name] for each in found], [0.025, 0.975]).tolist())
        for name in found[0]
    }
