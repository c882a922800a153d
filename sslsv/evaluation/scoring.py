"""Score trials by the cosine of embeddings, optionally normalised with a cohort.

Score normalisation compares a cosine with the cosines between the same recordings and a cohort of other
recordings. The formulas are those of Matejka et al., Interspeech 2017; as-norm is their AS-norm1, in which
each side has its own top scores. Standard deviations are those of the population, as in wespeaker.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Kind = Literal["z", "t", "s", "as"]

TILE_ELEMENTS = 4_000_000  # float32 values of working memory: 16 MB
# A dot product within a matrix product is this many times cheaper than one of two gathered rows.
GEMM_ADVANTAGE = 64
# Cosines in float32 have rounding errors of about 1e-7; a smaller deviation is considered zero.
MIN_DEVIATION = 1e-6


def cosine_scores(embeddings: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Rows:
    """Return the cosine (T,) in [-1, 1] of rows `enrol[t]` and `test[t]` of the embeddings (N, D).

    An all-zero embedding has cosine 0 with all others. Raises ValueError for embeddings that are not finite.
    """
    rows, first, second = unit_rows(embeddings), np.asarray(enrol), np.asarray(test)
    scores = np.empty(len(first), dtype=np.float32)
    firsts, first_at = _used_rows(first, len(rows))
    seconds, second_at = _used_rows(second, len(rows))
    both, both_at = _used_rows(np.concatenate((first, second)), len(rows))
    is_folded = len(both) ** 2 < 2 * len(firsts) * len(seconds)
    if is_folded:  # Cosines are symmetric, so half of the products suffice.
        firsts = seconds = both
        first_at, second_at = np.maximum(*np.split(both_at, 2)), np.minimum(*np.split(both_at, 2))
    if len(firsts) * len(seconds) > GEMM_ADVANTAGE * len(first):
        height = max(1, TILE_ELEMENTS // (2 * rows.shape[1]))
        for start in range(0, len(first), height):
            part = slice(start, start + height)
            scores[part] = np.einsum("td,td->t", rows[first[part]], rows[second[part]])
        return np.clip(scores, -1, 1, out=scores)
    # Each block of enrolment rows is multiplied with all test rows; the trials are picked from the product.
    test_columns, height = rows[seconds].T, max(1, TILE_ELEMENTS // max(len(seconds), 1))
    block = (first_at // height).astype(np.uint16 if len(firsts) < 2**16 else np.int64)
    order = np.argsort(block, kind="stable")  # ten times as fast for 16-bit integers
    parts = np.split(order, np.cumsum(np.bincount(block)))
    for start, trials in zip(range(0, len(firsts), height), parts, strict=False):
        stop = start + height
        products = rows[firsts[start:stop]] @ (test_columns[:, :stop] if is_folded else test_columns)
        scores[trials] = products[first_at[trials] - start, second_at[trials]]
    return np.clip(scores, -1, 1, out=scores)


def normalise_scores(
    kind: Kind,
    scores: ArrayLike,
    embeddings: ArrayLike,
    enrol: ArrayLike,
    test: ArrayLike,
    cohort: ArrayLike,
    top: int = 300,
) -> Floats:
    """Return normalised scores (T,): (score - mean) / deviation of the cosines with the cohort rows (C, D).

    Mean and deviation are those of the enrolment recording for `z`, of the test recording for `t`; `s` is the
    mean of both results. `as` is `s` with only the `top` highest cosines of each recording; it equals `s` for
    a cohort with no more rows. `scores` (T,) are cosines of rows `enrol` and `test` of the embeddings (N, D).
    Each recording is compared with the cohort once. Raises ValueError for a cohort of 1 row or of equal rows.
    """
    cohort_rows, values = unit_rows(cohort), np.asarray(scores, dtype=np.float64)
    count = min(top, len(cohort_rows)) if kind == "as" else len(cohort_rows)
    if count < 2:
        raise ValueError(
            f"The cohort has {len(cohort_rows)} rows and top is {top}; {count} value(s) have no standard "
            "deviation. Both numbers must be at least 2, better some hundreds."
        )
    sides = {"z": [enrol], "t": [test]}.get(kind, [enrol, test])
    used, indices = np.unique(np.concatenate(sides), return_inverse=True)
    mean, deviation = _statistics(unit_rows(np.asarray(embeddings)[used]), cohort_rows, count)
    normalised = [(values - mean[i]) / deviation[i] for i in np.split(indices, len(sides))]
    return np.asarray(sum(normalised) / len(sides), dtype=np.float64)


def unit_rows(embeddings: ArrayLike) -> Rows:
    """Return rows (N, D) scaled to length 1, float32; zeros stay zeros. Raises ValueError if not finite."""
    rows = np.asarray(embeddings, dtype=np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        wrong = np.flatnonzero(~np.isfinite(largest[:, 0]))
        raise ValueError(
            f"{len(wrong)} of {len(rows)} embeddings are not finite, the first is row {wrong[0]}: the model "
            "has diverged (train it with a lower optimizer.learning_rate), or a value is too large for fp16"
        )
    # Squares of large values would overflow, so each row is first divided by its largest value.
    scaled = rows / np.where(largest > 0, largest, 1)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)  # at least 1 unless all are zero
    return np.asarray(scaled, dtype=np.float32)


def _used_rows(indices: Indices, num_rows: int) -> tuple[Indices, Indices]:
    # Equals `np.unique` with `return_inverse`, without its sort, which took a third of the scoring time.
    is_used = np.zeros(num_rows, dtype=bool)
    is_used[indices] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[indices]


def _statistics(rows: Rows, cohort: Rows, count: int) -> tuple[Floats, Floats]:
    mean, deviation = np.empty(len(rows)), np.empty(len(rows))
    height = max(1, TILE_ELEMENTS // len(cohort))
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        cosines = rows[part] @ cohort.T
        if count < len(cohort):
            cosines.partition(len(cohort) - count, axis=1)
        highest = cosines[:, len(cohort) - count :]
        mean[part] = highest.mean(axis=1, dtype=np.float64)
        deviation[part] = highest.std(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(deviation < MIN_DEVIATION)
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(rows)} recordings are equally close to all of the {count} cohort rows "
            "compared; the cohort's rows, or the recordings' embeddings, may be all alike or all zero."
        )
    return mean, deviation
