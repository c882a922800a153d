"""Score normalisation: how unusual is a cosine, given those of the same recordings with a cohort of others?

The forms are those of Matejka et al., Interspeech 2017; as-norm is their AS-norm1, where each side has its
own top scores. The cohort is explicit, so that it is in sight whether it was made with labels. Whoever
centres, centres embeddings and cohort alike, before scoring.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from sklearn.cluster import MiniBatchKMeans

from sslsv.evaluation.scoring import TILE_ELEMENTS, checked_rows, unit_rows

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Kind = Literal["z", "t", "s", "as"]

# Cosines in float32 are rounded by about 1e-7, so that a smaller deviation is nothing but rounding.
MIN_DEVIATION = 1e-6


def normalise_scores(
    kind: Kind,
    scores: ArrayLike,
    embeddings: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    cohort: ArrayLike,
    top: int | None = 300,
    ddof: Literal[0, 1] = 0,
) -> Floats:
    """Normalised scores (T,) of trials: (score - mean) / deviation of cosines with cohort rows (C, D).

    z: of the enrolment recording; t: of the test recording; s: the mean of both. as: s, with each recording's
    `top` highest cosines only; with a cohort no larger than `top`, or `top` None, it is s. The other kinds
    always take the whole cohort. `scores` (T,) are cosines of rows `enrol` and `test` of the embeddings
    (N, D). The deviation is the population's with `ddof` 0 (as in wespeaker), the sample's with 1. Each
    recording meets the cohort once, however many trials it is in. Raises ValueError for a cohort that gives
    no deviation: fewer than 2 rows, or rows all alike.
    """
    if kind not in get_args(Kind):
        raise ValueError(
            f"There is no '{kind}' score normalisation; choose among {', '.join(get_args(Kind))}."
        )
    rows, others = np.asarray(embeddings, dtype=np.float32), np.asarray(cohort, dtype=np.float32)
    if rows.ndim != 2 or others.ndim != 2 or rows.shape[1] != others.shape[1]:
        raise ValueError(
            f"embeddings have shape {rows.shape} and the cohort {others.shape}; they must be (N, D) "
            "and (C, D)."
        )
    values = np.asarray(scores, dtype=np.float64)
    first, second = checked_rows(enrol, len(rows), "enrol"), checked_rows(test, len(rows), "test")
    if not values.shape == first.shape == second.shape:
        raise ValueError(
            f"scores have shape {values.shape}, enrol {first.shape} and test {second.shape}; all must "
            "be (T,)."
        )
    count = len(others) if kind != "as" or top is None else min(top, len(others))
    if count < 2:
        raise ValueError(
            f"The cohort has {len(others)} rows and top is {top}: no deviation can be had from {count}; both "
            "must be at least 2, better some hundred."
        )
    sides = {"z": [first], "t": [second]}.get(kind, [first, second])
    unit_cohort = unit_rows(others)
    heard, at = np.unique(np.concatenate(sides), return_inverse=True)
    mean, deviation = _statistics(unit_rows(rows[heard]), unit_cohort, count, ddof)
    normalised = [(values - mean[i]) / deviation[i] for i in np.split(at, len(sides))]
    return np.asarray(sum(normalised) / len(sides), dtype=np.float64)


def cluster_cohort(embeddings: ArrayLike, num_clusters: int, seed: int = 0) -> Rows:
    """A cohort (C, D) without labels: means of the k-means clusters of L2-normalised embeddings (N, D).

    C is `num_clusters`, or less where clusters were left empty. By mini-batches: a million embeddings take
    minutes. Same seed, same cohort.
    """
    unit = _unit_of(embeddings)
    if not 2 <= num_clusters <= len(unit):
        raise ValueError(
            f"num_clusters is {num_clusters}; it must be from 2 to the number of embeddings, {len(unit)}."
        )
    kmeans = MiniBatchKMeans(
        num_clusters, random_state=seed, n_init=3, batch_size=max(1024, 2 * num_clusters)
    )
    return _means(unit, kmeans.fit(unit).predict(unit))


def speaker_cohort(embeddings: ArrayLike, speakers: ArrayLike) -> Rows:
    """A cohort (C, D) of mean L2-normalised embeddings per speaker: uses labels, `speakers` (N,).

    A result with such a cohort is not self-supervised; say so beside it, or take `cluster_cohort`.
    """
    unit, names = _unit_of(embeddings), np.asarray(speakers)
    if names.shape != (len(unit),):
        raise ValueError(
            f"speakers have shape {names.shape}; they must be ({len(unit)},), one per embedding."
        )
    return _means(unit, names)


def _statistics(unit: Rows, unit_cohort: Rows, count: int, ddof: int) -> tuple[Floats, Floats]:
    """Mean and deviation (N,) of each row's `count` highest cosines with the cohort, in bounded memory."""
    mean, deviation = np.empty(len(unit)), np.empty(len(unit))
    height = max(1, TILE_ELEMENTS // len(unit_cohort))
    for start in range(0, len(unit), height):
        part = slice(start, start + height)
        cosines = unit[part] @ unit_cohort.T
        if count < len(unit_cohort):
            cosines.partition(len(unit_cohort) - count, axis=1)
        highest = cosines[:, len(unit_cohort) - count :]
        mean[part] = highest.mean(axis=1, dtype=np.float64)
        deviation[part] = highest.std(axis=1, dtype=np.float64, ddof=ddof)
    wrong = np.flatnonzero(deviation < MIN_DEVIATION)
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(unit)} recordings are equally close to all of the {count} cohort rows "
            "compared; the cohort's rows, or the recordings' embeddings, may be all alike or all zero."
        )
    return mean, deviation


def _means(unit: Rows, groups: NDArray[np.generic]) -> Rows:
    """Mean row (G, D) of every group."""
    names, at = np.unique(groups, return_inverse=True)
    members = coo_array((np.ones(len(at), np.float32), (at, np.arange(len(at)))), shape=(len(names), len(at)))
    return np.asarray(members.tocsr() @ unit / np.bincount(at)[:, None], dtype=np.float32)


def _unit_of(embeddings: ArrayLike) -> Rows:
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings have shape {rows.shape}; they must be (N, D), one row per utterance.")
    return unit_rows(rows)
